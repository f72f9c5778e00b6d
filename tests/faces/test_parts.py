"""The protocols of a processor's parts, what they exchange, and features of several references at once."""

import numpy as np
import pytest
import torch
from support import tiny

from lavieid_adapters import DetectedFace, VisionModel
from lavieid_adapters.faces.facexlib_models import BiSeNet, FaceAligner, RetinaFace
from lavieid_adapters.faces.insightface_models import InsightFace
from lavieid_adapters.faces.parts import (
    Aligner,
    Detector,
    FaceFeatures,
    Parser,
    Recognizer,
    VisionEncoder,
    check_part,
    component_features,
    join_embeds,
)


@pytest.fixture(scope="module")
def vision(face_models) -> VisionModel:
    return VisionModel(face_models.clip)


def pictures(*batch: int, seed: int = 0) -> np.ndarray:
    """(..., 6, 28, 28, 3) components of noise."""
    return np.random.default_rng(seed).integers(0, 256, (*batch, 6, 28, 28, 3), dtype=np.uint8)


MASK = np.array([[True] * 6, [True, False, True, True, True, False]])


def test_each_component_has_the_features_of_its_own_image(vision):
    images = pictures(2)
    embeds, maps = component_features(vision, images, np.ones((2, 6), bool))
    assert embeds.shape == (2, 6, 12)
    assert [tuple(m.shape) for m in maps] == [(2, 6, 5, 16)] * 5
    torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(2, 6))
    for i, m in np.ndindex(2, 6):
        wanted, wanted_maps = vision.encode(images[i, m][None])
        torch.testing.assert_close(embeds[i, m], wanted[0])
        for got, of_scale in zip(maps, wanted_maps, strict=True):
            torch.testing.assert_close(got[i, m], of_scale[0])
    assert embeds.flatten(0, 1).std(dim=0).min() > 0.01


def test_hidden_components_are_zero_and_change_no_other(vision):
    images = pictures(2)
    whole, whole_maps = component_features(vision, images, np.ones((2, 6), bool))
    embeds, maps = component_features(vision, images, MASK)
    shown = torch.from_numpy(MASK)
    for got, wanted in zip((embeds, *maps), (whole, *whole_maps), strict=True):
        assert wanted[~shown].norm() > 0
        assert (got[~shown] == 0).all()
        torch.testing.assert_close(got[shown], wanted[shown])
    other = images.copy()
    other[~MASK] = 0
    assert torch.equal(component_features(vision, other, MASK)[0], embeds)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)], ids=str)
def test_any_number_of_references_is_taken(vision, batch):
    images = pictures(*batch)
    embeds, maps = component_features(vision, images, np.ones((*batch, 6), bool))
    assert embeds.shape == (*batch, 6, 12)
    assert all(m.shape == (*batch, 6, 5, 16) for m in maps)
    flat, _ = component_features(
        vision, images.reshape(-1, 6, 28, 28, 3), np.ones((embeds[..., 0, 0].numel(), 6), bool)
    )
    assert torch.equal(embeds.reshape(flat.shape), flat)


def test_a_reference_of_which_nothing_is_seen_is_zero_beside_another(vision):
    mask = np.array([[True] * 6, [False] * 6])
    embeds, maps = component_features(vision, pictures(2), mask)
    for value in (embeds, *maps):
        assert value[0].norm() > 0
        assert (value[1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_join_embeds_puts_the_identity_before_each_components_embedding(dtype):
    identity, vit = torch.randn(2, 12, dtype=torch.float64), torch.randn(2, 6, 5).to(dtype)
    joined = join_embeds(identity, vit)
    assert (tuple(joined.shape), joined.dtype) == ((2, 6, 17), dtype)
    for b, m in np.ndindex(2, 6):
        assert torch.equal(joined[b, m, :12], identity[b].to(dtype))
        assert torch.equal(joined[b, m, 12:], vit[b, m])


def test_gradients_flow_through_what_is_joined():
    identity, vit = torch.randn(2, 12, requires_grad=True), torch.randn(2, 6, 5, requires_grad=True)
    gradients = torch.autograd.grad(join_embeds(identity, vit).sum(), [identity, vit])
    assert torch.equal(gradients[0], torch.full((2, 12), 6.0))  # one for each component
    assert torch.equal(gradients[1], torch.ones(2, 6, 5))


def test_a_batch_in_training_has_the_tokens_that_each_photo_has_alone(vision):
    images, identities, encoder = pictures(2), torch.randn(2, 12), tiny.encoder()
    vit_embeds, maps = component_features(vision, images, MASK)
    with torch.no_grad():
        together = encoder(join_embeds(identities, vit_embeds), maps)
    for i in range(2):
        embeds, of_photo = component_features(vision, images[i], MASK[i])
        features = FaceFeatures(
            aligned=np.zeros((512, 512, 3), np.uint8),
            component_map=np.zeros((512, 512), np.uint8),
            component_images=images[i],
            hidden={},
            matrix=np.eye(2, 3),
            boxes=np.zeros((0, 4)),
            id_embedding=identities[i],
            vit_embeds=embeds,
            vit_hidden_states=of_photo,
        )
        assert torch.equal(features.id_embeds, join_embeds(identities[i][None], vit_embeds[i][None]))
        alone = encoder.encode(features.id_embeds, [v[None] for v in features.vit_hidden_states])
        torch.testing.assert_close(together[i], alone.tokens, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=0.01)


# protocols


def test_the_models_of_the_package_have_the_members_of_their_protocols(tmp_path):
    """Though none of their files is there: checking reads nothing."""
    insightface, vision = InsightFace("antelopev2", tmp_path), VisionModel(tmp_path / "vit")
    for part, protocol in (
        (insightface, Detector),
        (insightface, Recognizer),
        (RetinaFace(tmp_path), Detector),
        (FaceAligner(), Aligner),
        (BiSeNet(tmp_path), Parser),
        (vision, VisionEncoder),
    ):
        assert check_part("part", part, protocol) is part
    with pytest.raises((OSError, ValueError), match="vit"):
        _ = vision.image_size
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("protocol", "members"),
    [(Detector, "detect"), (Recognizer, "embed"), (Aligner, "align"), (Parser, "parse")],
)
def test_an_object_without_the_method_of_its_protocol_is_named(protocol, members):
    class Part:
        def __init__(self, **methods):
            vars(self).update(methods)

        def __repr__(self):
            return "<my part>"

    part = Part(**{members: lambda *args: None})  # of its class or its own
    assert check_part("role", part, protocol) is part
    expected = rf"^role takes an object with {members}, but got <my part>\. See {protocol.__name__} in .*parts\.py\.$"
    with pytest.raises(TypeError, match=expected):
        check_part("role", Part(), protocol)
    with pytest.raises(TypeError, match="but got <class"):
        check_part("role", type("Ready", (), {members: print}), protocol)


def test_a_vision_encoder_needs_its_image_size_too():
    class Vision:
        def encode(self, images):
            raise AssertionError

    vision = Vision()
    with pytest.raises(TypeError, match="vision takes an object with image_size and encode"):
        check_part("vision", vision, VisionEncoder)
    vision.image_size = 28
    assert check_part("vision", vision, VisionEncoder) is vision


def test_an_object_that_answers_for_another_is_taken(vision):
    class Proxy:
        def __getattr__(self, name):
            return getattr(vision, name)

    proxy = Proxy()
    assert check_part("vision", proxy, VisionEncoder) is proxy and proxy.image_size == 28


# detected faces and features


def test_a_detected_face_is_checked_and_takes_lists_and_tensors():
    face = DetectedFace([1, 2, 3, 4], torch.tensor(0.5), torch.ones(5, 2))
    assert face.box.shape == (4,) and face.landmarks.shape == (5, 2) and face.score == 0.5
    with pytest.raises(ValueError, match=r"box is .* of shape \(4,\)"):
        DetectedFace([1, 2, 3], 0.5, np.ones((5, 2)))
    with pytest.raises(ValueError, match=r"landmarks is .* of shape \(5, 2\)"):
        DetectedFace([1, 2, 3, 4], 0.5, np.full((5, 2), np.nan))
    with pytest.raises(ValueError, match="score is nan, but must be finite"):
        DetectedFace([1, 2, 3, 4], float("nan"), np.ones((5, 2)))


@pytest.mark.parametrize("left_out", ["recognizer", "vision model"])
def test_features_without_what_an_encoder_takes_say_so(left_out):
    def features(**read):
        return FaceFeatures(
            aligned=np.zeros((512, 512, 3), np.uint8),
            component_map=np.zeros((512, 512), np.uint8),
            component_images=pictures()[0],
            hidden={},
            matrix=np.eye(2, 3),
            boxes=np.zeros((0, 4)),
            **read,
        )

    read = {"id_embedding": torch.randn(12), "vit_embeds": torch.randn(6, 5)}
    assert features(**read).id_embeds.shape == (1, 6, 17)
    read["id_embedding" if left_out == "recognizer" else "vit_embeds"] = None
    with pytest.raises(ValueError, match=f"read without a {left_out}"):
        _ = features(**read).id_embeds
