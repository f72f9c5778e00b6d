"""The scripts that train the drawn world's models: what they share with the package must be the package's."""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lavieid_adapters import LocalRouter, token_labels
from lavieid_adapters.puppets import TEST_PEOPLE, draw_clips, draw_photos, people
from lavieid_adapters.puppets.sight.alignment import Aligner, alignment

pytestmark = pytest.mark.usefixtures("scripts")


def tokens_and_mask():
    tokens = torch.randn(2, 6, 8, 96, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 5] = False
    return tokens, mask


def perturbed(router):
    torch.manual_seed(0)
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return router.eval()


def test_labels_in_a_batch_are_those_of_each_clip():
    from samples import GRID, batched_labels

    clips = draw_clips(people(TEST_PEOPLE[:2]), [1, 2])
    labels = batched_labels(clips.maps)
    assert len(labels.unique()) >= 6
    assert torch.equal(labels, torch.stack([token_labels(maps, GRID) for maps in clips.maps]))


def test_photos_are_aligned_in_a_batch_as_one_by_one():
    from samples import warp

    photos = draw_photos(people(TEST_PEOPLE[:2]), [1, 2])
    landmarks = photos.landmarks.numpy() - 0.5
    matrices = torch.stack([torch.from_numpy(alignment(points)) for points in landmarks])
    together = warp(photos.images, matrices)
    for i in range(2):
        alone, _ = Aligner().align(photos.images[i].permute(1, 2, 0).numpy(), landmarks[i])
        difference = np.abs(together[i].permute(1, 2, 0).numpy() - alone)
        assert difference.mean() < 1  # bytes are rounded down
        assert np.quantile(difference, 0.97) < 2  # the photo's edge is blended by one and cut by the other


@pytest.mark.parametrize("frames", [1, 9, 17])
def test_channels_last_the_autoencoder_is_the_same(frames):
    from channels_last import ChannelsLast
    from models import new_vae

    torch.manual_seed(0)
    vae = new_vae(tiny=True).eval()
    fast, video = ChannelsLast(vae), torch.rand(1, 3, frames, 32, 48) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(video).latent_dist
        latents = posterior.mode()
        torch.testing.assert_close(fast.encode(video).parameters, posterior.parameters, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(fast.decode(latents), vae.decode(latents).sample, rtol=1e-3, atol=1e-4)


def test_latents_are_normalised_channel_by_channel():
    from models import new_vae
    from train_vae import normalise

    torch.manual_seed(0)
    vae = new_vae(tiny=True).eval()
    video = torch.rand(2, 3, 9, 96, 96) * 2 - 1
    with torch.no_grad():
        before = vae.encode(video).latent_dist
        normalise(vae, video)
        after = vae.encode(video).latent_dist
        spread = before.mode().std((0, 2, 3, 4))
        torch.testing.assert_close(after.mode().std((0, 2, 3, 4)), torch.ones(16), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(after.mode().mean((0, 2, 3, 4)), torch.zeros(16), rtol=0, atol=1e-3)
        torch.testing.assert_close(after.std.mean((0, 2, 3, 4)) * spread, before.std.mean((0, 2, 3, 4)))


def test_a_moving_average_is_of_the_last_of_the_training():
    from timed import MovingAverage

    model = torch.nn.Linear(1, 1, bias=False)
    average = MovingAverage(model, share=0.1)
    for step in range(1000):
        model.weight.data.fill_(step)
        average.update()
    assert 800 < average.models[0].weight.item() < 950  # a tenth behind


def test_the_literal_router_is_the_router():
    from compared import LiteralRouter
    from models import WIDTH, new_router

    router = perturbed(new_router())
    literal = new_router(LiteralRouter)
    literal.load_state_dict(router.state_dict())
    z = torch.randn(2, 30, WIDTH, generator=torch.Generator().manual_seed(2))
    steered = router(z, *tokens_and_mask())
    assert (steered - z).norm() > 0.01 * z.norm()
    torch.testing.assert_close(literal.eval()(z, *tokens_and_mask()), steered, rtol=1e-4, atol=1e-4)


def test_unrouted_attention_has_the_router_s_size_sees_no_hidden_component_and_saves(tmp_path):
    from compared import UnroutedAttention
    from models import WIDTH, new_router
    from train_adapters import VARIANTS

    unrouted = perturbed(new_router(UnroutedAttention, **VARIANTS["unrouted"].router))
    assert unrouted.num_parameters() == pytest.approx(new_router().num_parameters(), rel=0.01)
    z = torch.randn(2, 30, WIDTH, generator=torch.Generator().manual_seed(2))
    tokens, mask = tokens_and_mask()
    steered = unrouted(z, tokens, mask)
    assert (steered - z).norm() > 0.01 * z.norm()
    tokens[1, 5] = 0
    torch.testing.assert_close(unrouted(z, tokens, mask), steered)
    unrouted.save_pretrained(tmp_path)
    torch.testing.assert_close(UnroutedAttention.from_pretrained(tmp_path)(z, tokens, mask), steered)
    with pytest.raises(ValueError, match="not a LocalRouter"):
        LocalRouter.from_pretrained(tmp_path)


def test_a_variant_is_refused_before_anything_is_drawn_if_it_wants_another_that_is_not_there(tmp_path):
    from train_adapters import VARIANTS, check

    check(["lavieid", "tam", "router-given"], tmp_path)
    with pytest.raises(FileNotFoundError, match="tam wants the adapters of lavieid"):
        check(["tam", "lavieid"], tmp_path)
    folder = tmp_path / "adapters" / "lavieid"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text("{}")
    check(["tam"], tmp_path)
    assert {v.behind for v in VARIANTS.values()} | {v.encoder for v in VARIANTS.values()} <= {None, *VARIANTS}


def test_every_row_is_of_trained_variants_and_every_comparison_of_rows():
    from rows import ROWS, file_of
    from tables import COMPARISONS
    from train_adapters import VARIANTS

    assert {row.source for row in ROWS.values()} <= {"base", "drawn", "literal", *VARIANTS}
    assert {row.tam for row in ROWS.values()} <= {None, *VARIANTS}
    assert {name for _, *pair in COMPARISONS for name in pair} <= set(ROWS)
    assert len({file_of(Path(), name) for name in ROWS}) == len(ROWS)


def test_rows_of_other_settings_are_not_mixed(tmp_path):
    from ablation import judge_rows
    from rows import REAL, file_of

    kept = {"people": 2, "prompts": 4, "seeds": 2, "steps": 50, "guidance": 4.0}
    torch.save({"settings": kept}, file_of(tmp_path, REAL))
    asked = argparse.Namespace(out=tmp_path, rows=["base"], people=2, prompts=4, seeds=2, steps=20, device="cpu")
    with pytest.raises(ValueError, match=r"other settings.*50.*20.*--to"):
        judge_rows(asked, tmp_path)
    assert not file_of(tmp_path, "base").exists()


def test_a_figure_that_one_row_lacks_is_a_dash_and_not_compared():
    from tables import tables

    report = {"settings": {"people": 2}, "features": torch.zeros(4, 8)}
    both = torch.tensor([0.1, 0.2, 0.3, 0.4])
    old = {**report, "figures": {"FaceSim": both}}
    new = {**report, "figures": {"FaceSim": both + 0.1, "contrast": both}}
    text = tables({"router": new, "TAM": old})
    assert "| router | 0.350 ± 0.100 | 0.250 ± 0.100 |" in text
    assert "| TAM | 0.250 ± 0.100 | – |" in text
    assert "FaceSim: router, beside TAM | 0.100" in text


@pytest.mark.slow
def test_all_stages_run_from_nothing_to_the_package_s_weights(scripts, tmp_path):
    def stage(script: str, *arguments: str) -> None:
        command = [sys.executable, str(scripts / f"{script}.py"), "--out", str(tmp_path), *arguments]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr

    stage("train_sight", "--minutes", "0.5", "--device", "cpu", "--tiny")
    stage("train_vae", "--minutes", "0.3", "--batch", "1", "--tiny")
    stage("train_vae", "--minutes", "0.2", "--batch", "1", "--tiny", "--resume", "--decoder-only", "--long", "1")
    stage("judge_vae", "--people", "2", "--prompts", "1", "--device", "cpu")
    stage("train_base", "--minutes", "0.4", "--tiny")
    stage("train_base", "--minutes", "0.3", "--tiny", "--resume")
    few = ["--samples", "4", "--batch", "2", "--steps", "2", "--tam-steps", "2", "--device", "cpu"]
    stage("train_adapters", *few, "lavieid", "unrouted-given", "strong-diffusion", "tam")
    stage("assemble", "--to", str(tmp_path / "weights"))
    assert (tmp_path / "weights" / "lavieid" / "tam" / "config.json").is_file()
    stage("ablation", "--people", "1", "--steps", "1", "--batch", "8", "--device", "cpu")
    made = {file.stem for file in (tmp_path / "ablation").glob("*.pt")}
    assert {"base", "router", "unrouted-on-lavieid-s-encoder", "lavieid", "router-eqs-2-and-3-as-printed"} < made
    assert "tam" not in made  # of which nothing was trained
    stage("plot", "--to", str(tmp_path))
    assert (tmp_path / "ablation.png").stat().st_size > 10_000


def test_a_paired_ratio_has_no_interval_where_rows_are_in_proportion():
    from tables import paired

    second = torch.rand(12, generator=torch.Generator().manual_seed(0)) + 0.5
    difference, ratio = paired(1.5 * second, second, torch.arange(12) // 3)
    assert difference.low < difference.mean < difference.high
    assert ratio == pytest.approx((1.5, 1.5, 1.5))
    assert difference.mean == pytest.approx(0.5 * second.mean().item(), rel=1e-5)
    missing = torch.full((12,), torch.nan)
    assert all(interval.mean != interval.mean for interval in paired(second, missing, torch.arange(12) // 3))
