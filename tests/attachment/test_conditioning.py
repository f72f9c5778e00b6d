import numpy as np
import pytest
import torch
from support import tiny

from lavieid_adapters.attachment.conditioning import Conditioning, identity_index

FLOAT = torch.device("cpu"), torch.float32


@pytest.mark.parametrize(
    ("batch", "identities", "videos", "index"),
    [(1, 1, 1, [0]), (2, 2, 1, [0, 1]), (4, 2, 1, [0, 1, 0, 1]), (4, 2, 2, [0, 0, 1, 1]), (6, 3, 1, [0, 1, 2] * 2)],
)
def test_a_batch_is_passes_times_prompts_times_videos(batch, identities, videos, index):
    assert identity_index(batch, identities, videos) == index


@pytest.mark.parametrize(("batch", "identities", "videos"), [(3, 2, 1), (6, 2, 1), (2, 3, 1), (2, 2, 2)])
def test_a_batch_that_is_neither_one_pass_nor_two_is_refused(batch, identities, videos):
    with pytest.raises(ValueError, match=f"{identities} identities .* do not fit a batch of {batch}"):
        identity_index(batch, identities, videos)


@pytest.mark.parametrize(
    ("tokens", "mask", "videos", "error", "message"),
    [
        ("tokens.pt", None, 1, TypeError, "tokens are a str, but must be a tensor"),
        (tiny.tokens() * torch.nan, None, 1, ValueError, "NaN or infinite"),
        (tiny.tokens(), torch.zeros(6, dtype=torch.bool), 1, ValueError, "no visible component"),
        (tiny.tokens(), torch.ones(6), 1, TypeError, "component_mask is torch.float32"),
        (tiny.tokens(), None, 0, ValueError, "videos_per_prompt is 0, but must be at least 1"),
        (tiny.tokens(), None, 1.5, TypeError, "videos_per_prompt is 1.5"),
        (tiny.tokens(), None, True, TypeError, "videos_per_prompt is True"),
    ],
)
def test_what_is_no_identity_of_the_router_is_refused(tokens, mask, videos, error, message):
    with pytest.raises(error, match=message):
        Conditioning(tiny.router(), tokens, mask, videos)


def test_the_fold_is_cached_until_weights_tokens_or_the_activations_change():
    router = tiny.router().requires_grad_(False)
    conditioning = Conditioning(router, tiny.tokens(), None, 1)
    first = conditioning.fold(*FLOAT)
    assert conditioning.fold(*FLOAT) is first
    changes = {
        "dtype": lambda: conditioning.fold(torch.device("cpu"), torch.bfloat16),
        "weights": lambda: router.to_component.weight.mul_(2),
        "tokens": lambda: conditioning.tokens.mul_(2),
    }
    for name, change in changes.items():
        before = conditioning.fold(*FLOAT)
        change()
        after = conditioning.fold(*FLOAT)
        assert after is not before, name
        assert torch.equal(after.key, before.key) == (name == "dtype" or name == "weights"), name


def test_the_fold_of_what_trains_is_not_cached_and_has_its_gradient():
    tokens = tiny.tokens().requires_grad_()
    conditioning = Conditioning(tiny.router(), tokens, None, 1)
    first = conditioning.fold(*FLOAT)
    assert conditioning.fold(*FLOAT) is not first
    first.key.sum().backward()
    assert tokens.grad.norm() > 0
    with torch.no_grad():
        assert conditioning.fold(*FLOAT) is conditioning.fold(*FLOAT)


def test_several_identities_are_laid_out_over_the_batch_once():
    conditioning = Conditioning(tiny.router().requires_grad_(False), tiny.tokens(2), None, 1)
    each = conditioning.fold(*FLOAT)
    laid_out = conditioning.folded(*FLOAT, 4)
    assert torch.equal(laid_out.key, each.key[[0, 1, 0, 1]])
    assert conditioning.folded(*FLOAT, 4) is laid_out
    assert torch.equal(conditioning.folded(*FLOAT, 2).key, each.key)


def test_regions_show_each_identity_in_its_place():
    masks = [torch.zeros(1, 4, 6), torch.ones(1, 4, 6)]
    masks[0][..., :3] = 1
    conditioning = Conditioning(tiny.router(), tiny.tokens(2), None, 1, masks)
    (first, left), (second, whole) = conditioning.shown(torch.randn(2, 72, tiny.DIM), (3, 4, 6))
    assert torch.equal(left.view(3, 4, 6)[0], masks[0][0])
    assert (whole == 1).all()
    assert not torch.equal(first.key, second.key)
    flipped = torch.arange(72).flip(0)
    assert torch.equal(conditioning.shown(torch.randn(2, 72, tiny.DIM), (3, 4, 6), flipped)[0][1], left.flip(1))


@pytest.mark.parametrize(("batch", "passes", "fits"), [(4, 2, True), (2, 1, True), (2, 2, False), (2, None, True)])
def test_a_forward_whose_passes_are_known_is_checked_ahead(batch, passes, fits):
    conditioning = Conditioning(tiny.router(), tiny.tokens(2), None, 1)
    if fits:
        conditioning.check_forward(batch, passes, None)
    else:
        with pytest.raises(ValueError, match="need a batch of 4 in 2 guidance passes, but the pipeline runs 2"):
            conditioning.check_forward(batch, passes, None)


@pytest.mark.parametrize("mask", [[True] * 6, (True,) * 6, np.ones(6, bool), "visible"], ids=lambda m: type(m).__name__)
def test_a_mask_that_is_no_tensor_is_refused_by_its_type(mask):
    message = f"component_mask is {type(mask).__name__}, but must be a tensor of torch.bool"
    for tokens in (tiny.tokens(), tiny.tokens(1)):
        with pytest.raises(TypeError, match=message):
            Conditioning(tiny.router(), tokens, mask, 1)
