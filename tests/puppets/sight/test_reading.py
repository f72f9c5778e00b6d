"""Reading photos of drawn people: the parts of a face processor."""

import shutil

import numpy as np
import pytest
from support import tiny, tiny_puppets

from lavieid_adapters import DetectedFace, FaceProcessor
from lavieid_adapters.cli import main as cli
from lavieid_adapters.puppets import TEST_PEOPLE, draw_photos, people
from lavieid_adapters.puppets import pipeline as base
from lavieid_adapters.puppets.sight.alignment import Aligner, alignment
from lavieid_adapters.puppets.sight.drawn_faces import DrawnFaces
from lavieid_adapters.puppets.sight.reading import COMPONENT_SIZE, aligned_components, reading_parts

COUNT = 24


@pytest.fixture(scope="module")
def photos():
    return draw_photos(people(TEST_PEOPLE[:COUNT]), range(COUNT))


def pixels(photos, i):
    return photos.images[i].permute(1, 2, 0).numpy()


@pytest.fixture
def encoder():
    return tiny.encoder(id_dim=512 + 64, vit_dim=96, depth=2, num_scales=2, vision_model="puppets")


def test_heads_fit_the_aligned_face_with_their_hair(photos):
    for i in range(COUNT):
        image, component_map, landmarks = pixels(photos, i), photos.maps[i].numpy(), photos.landmarks[i].numpy()
        aligned, aligned_map, hidden, images = aligned_components(image, component_map, landmarks)
        assert aligned.shape == (512, 512, 3) and images.shape == (6, COMPONENT_SIZE, COMPONENT_SIZE, 3)
        matrix = alignment(landmarks - 0.5)
        area = abs(np.linalg.det(matrix[:, :2]))
        assert (aligned_map > 0).sum() == pytest.approx((component_map > 0).sum() * area, rel=0.06)
        assert set(hidden) <= {"hair"}  # of those who are bald
        eye, other = matrix @ np.append(landmarks[0] - 0.5, 1), matrix @ np.append(landmarks[1] - 0.5, 1)
        assert eye[0] < 256 < other[0]


def test_a_map_of_another_size_is_refused(photos):
    with pytest.raises(ValueError, match=r"shape \(64, 64\), but the photo is \(128, 128\)"):
        aligned_components(pixels(photos, 0), photos.maps[0, :64, :64].numpy(), photos.landmarks[0].numpy())


def test_components_that_are_known_are_those_that_the_processor_finds(photos, encoder, tmp_path, monkeypatch):
    tiny_puppets.save_base(tmp_path)
    tiny_puppets.save_reading(tmp_path)
    monkeypatch.setattr(base, "WEIGHTS", tmp_path)

    class Known:
        def detect(self, image):
            return [DetectedFace(np.array([20, 20, 100, 120]), 1.0, photos.landmarks[1].numpy() - 0.5)]

    face = FaceProcessor.for_encoder(encoder, detectors=[Known()], recognizer=None)
    features = face(pixels(photos, 1), component_map=photos.maps[1].numpy())
    aligned, aligned_map, hidden, images = aligned_components(
        pixels(photos, 1), photos.maps[1].numpy(), photos.landmarks[1].numpy()
    )
    assert np.array_equal(features.aligned, aligned) and np.array_equal(features.component_map, aligned_map)
    assert features.hidden == hidden and np.array_equal(features.component_images, images)
    assert [tuple(h.shape) for h in features.vit_hidden_states] == [(6, 37, 96)] * 2
    assert features.vit_embeds.shape == (6, 64)


def test_the_encoder_names_the_parts_and_where_they_are_not_is_said(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "WEIGHTS", tmp_path / "weights")
    with pytest.raises(FileNotFoundError, match="The drawn world's weights are missing"):
        FaceProcessor.for_encoder(encoder)
    tiny_puppets.save_base(tmp_path / "weights")
    with pytest.raises(FileNotFoundError, match="has no face/ and no vision/, by which photos"):
        FaceProcessor.for_encoder(encoder)
    tiny_puppets.save_reading(tmp_path / "weights")
    face = FaceProcessor.for_encoder(encoder, cache_dir="nowhere", min_face=50)
    assert [type(part) for part in face.parts] == [DrawnFaces, Aligner, type(face.vision)]
    assert (face.vision.num_scales, face.min_face) == (2, 50)
    assert reading_parts(tmp_path / "weights", num_scales=1)["vision"].num_scales == 1
    shutil.rmtree(tmp_path / "weights" / "vision")
    with pytest.raises(FileNotFoundError, match="has no vision/, by"):
        reading_parts(tmp_path / "weights")


def test_the_drawn_worlds_photo_reader_is_no_hub_repo():
    with pytest.raises(ValueError, match="'puppets' is a photo reader and no Hub repo of a ViT"):
        FaceProcessor.from_pretrained(vision_model="puppets")
    with pytest.raises(ValueError, match="'puppets' is a photo reader, but this encoder was trained with 'openai/"):
        FaceProcessor.for_encoder(tiny.encoder(), vision_model="puppets")


def test_the_command_refuses_it_for_adapters_of_another_world(tmp_path, capsys):
    tiny.encoder().save_pretrained(tmp_path / "encoder")
    argv = ["identity", "photo.png", "-o", str(tmp_path / "me.safetensors"), "--adapters", str(tmp_path)]
    assert cli.main([*argv, "--vision-model", "puppets"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lavieid: 'puppets' is a photo reader, but this") and len(error.splitlines()) == 1
