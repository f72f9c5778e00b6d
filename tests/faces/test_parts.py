"""Features of several references at once, as training computes them."""

import numpy as np
import pytest
import torch
from support import tiny

from lavieid_adapters import VisionModel
from lavieid_adapters.faces.parts import FaceFeatures, component_features, join_embeds


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
