"""The training of judges and of the conditioning's sight: its parts against references, and all of it once, tiny."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from lavieid_adapters.faces.components import component_images, hidden_components
from lavieid_adapters.faces.vision import VisionModel
from lavieid_adapters.models.identity import FACIAL_COMPONENTS
from lavieid_adapters.puppets.judges.judges import Judges
from lavieid_adapters.puppets.sight.face_net import FaceNet
from lavieid_adapters.puppets.world.draw import draw_clips, draw_photos
from lavieid_adapters.puppets.world.person import people


@pytest.mark.parametrize("size", [48, 96])  # from smaller and from larger squares
def test_crops_of_a_batch_are_the_component_images_of_each_photo(scripts, size):
    from crops import component_crops

    photos = draw_photos(people(range(8)), range(8))
    photos.maps[1][photos.maps[1] == 2] = 0  # whose eyes are nowhere
    photos.maps[2][:64] = 0  # whose hair and brows are cut
    crops, visible = component_crops(photos.images, photos.maps, size)
    changed = 0
    for i in range(8):
        hidden = hidden_components(photos.maps[i].numpy(), 8 / 128**2)
        assert visible[i].tolist() == [name not in hidden for name in FACIAL_COMPONENTS]
        photo = photos.images[i].permute(1, 2, 0).numpy()
        wanted = component_images(photo, photos.maps[i].numpy(), hidden, size)
        found = crops[i].permute(0, 2, 3, 1).numpy()
        assert np.abs(found - wanted).max() < 2  # which were rounded twice
        changed += (wanted < 200).sum()
    assert changed > 10_000, "nearly all is white"
    assert not visible[1, 1] and (crops[1, 1] == 255).all()


def test_verification_is_the_area_under_the_curve_and_the_nearest_of_a_gallery(scripts):
    from figures import verification

    generator = torch.Generator().manual_seed(0)
    references = torch.nn.functional.normalize(torch.randn(130, 8, generator=generator), dim=1)
    person = torch.arange(130).repeat_interleave(2)
    queries = references[person] + 0.2 * torch.randn(260, 8, generator=generator)
    queries = torch.nn.functional.normalize(queries, dim=1)
    figures = verification(references, queries, person)
    scores, own = queries @ references.T, person[:, None] == torch.arange(130)
    pairs = scores[own][:, None] - scores[~own]
    assert figures["auc"] == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).double().mean().item(), abs=1e-9)
    right = [scores[i, 0:64].argmax() == p if p < 64 else scores[i, 64:128].argmax() + 64 == p
             for i, p in enumerate(person) if p < 128]  # fmt: skip
    assert 0.5 < figures["rank1_of_64"] < 1
    assert figures["rank1_of_64"] == pytest.approx(np.mean(right))


def test_arcface_punishes_the_margin(scripts):
    from figures import ArcFace

    torch.manual_seed(0)
    embeddings, person = torch.nn.functional.normalize(torch.randn(5, 16), dim=1), torch.tensor([0, 1, 2, 0, 1])
    arcface = ArcFace(3, 16, margin=0.3, scale=30)
    cosines = embeddings @ torch.nn.functional.normalize(arcface.centres, dim=1).T
    losses = []
    for row, i in zip(cosines, person, strict=True):
        logits = 30 * row.clone()
        logits[i] = 30 * torch.cos(torch.acos(row[i]) + 0.3)
        losses.append(torch.logsumexp(logits, 0) - logits[i])
    torch.testing.assert_close(arcface(embeddings, person), torch.stack(losses).mean(), rtol=1e-4, atol=1e-4)
    some = torch.tensor([1.0, 0, 0, 1, 0])
    torch.testing.assert_close(arcface(embeddings, person, some), (losses[0] + losses[3]) / 2, rtol=1e-4, atol=1e-4)


def test_geometry_moves_maps_with_their_pictures_and_some_out_of_sight(scripts):
    from augment import geometric

    torch.manual_seed(0)
    maps = torch.zeros(64, 32, 32, dtype=torch.uint8)
    maps[:, 8:24, 8:24] = 3
    images = 2 * (maps == 3).float()[:, None].expand(-1, 3, -1, -1) - 1
    moved, moved_maps = geometric(images, maps, shift=0.1, zoom=(0.5, 1.2), angle=30, away=0.25)
    gone = (moved_maps == 0).flatten(1).all(dim=1)
    assert 4 < gone.sum() < 32
    assert (moved[gone].flatten(2).std(dim=2) == 0).all()
    # White is where the square is, but for the smooth rim of the picture and for a colour beside it that is white, too.
    white = moved[~gone].amin(dim=1) > 0.99
    assert ((moved_maps[~gone] == 3) & ~white).float().mean() < 0.08
    assert (moved_maps[~gone] != maps[~gone]).float().mean() > 0.02


@pytest.mark.slow
def test_it_all_runs_tiny_and_what_it_writes_is_loaded(scripts, tmp_path):
    command = [sys.executable, scripts / "train_sight.py", "--out", tmp_path, "--minutes", "0.3", "--device", "cpu"]
    subprocess.run([*command, "--tiny"], check=True, capture_output=True)
    figures = json.loads((tmp_path / "sight.json").read_text())
    assert {"recognizer", "analyst", "motion", "face", "vision", "setting"} == set(figures)
    clips = draw_clips(people([5]), [5], frames=5)
    verdict = Judges.from_pretrained(tmp_path).judge(clips.video)
    assert verdict.values.isfinite().all() and verdict.embeddings.isfinite().all()
    assert FaceNet.from_pretrained(tmp_path / "face", torch_dtype=torch.float32).dtype == torch.float32
    vision = VisionModel(tmp_path / "vision", num_scales=2)
    embeds, maps = vision.encode(np.full((6, 48, 48, 3), 255, np.uint8))
    assert vision.image_size == 48 and embeds.shape == (6, 64) and [m.shape for m in maps] == [(6, 37, 96)] * 2
