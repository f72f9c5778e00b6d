"""Eqs. 2 and 3 from the folded form: what does not fit the video tokens is refused at the door."""

import pytest
import torch
from support import tiny

from lavieid_adapters.models.folded_identity import FoldedIdentity

BATCH, TOKENS = 2, 30


@pytest.fixture
def z():
    return tiny.noise(BATCH, TOKENS, tiny.DIM)


@pytest.fixture
def folded() -> FoldedIdentity:
    """Two identities."""
    return tiny.router().fold(tiny.tokens(BATCH))


def test_the_routers_methods_are_those_of_what_it_folds(z, folded):
    router = tiny.router()
    out = folded.steer(z)
    assert not torch.allclose(out, z)
    assert torch.equal(router.apply_folded(z, folded), out)
    assert torch.equal(router.folded_weights(z, folded), folded.route_weights(z))
    assert torch.equal(router(z, tiny.tokens(BATCH)), out)


def test_select_gives_each_sample_its_identity_and_all_what_they_share(z, folded):
    swapped = folded.select(torch.tensor([1, 0]))
    assert swapped.query_weight is folded.query_weight and swapped.out_weight is folded.out_weight
    assert not torch.allclose(swapped.steer(z), folded.steer(z))
    torch.testing.assert_close(swapped.steer(z.flip(0)), folded.steer(z).flip(0))
    one = folded.select(slice(1, 2))
    torch.testing.assert_close(one.steer(z)[1], folded.steer(z)[1])


@pytest.mark.parametrize("name", ["strength", "region"])
def test_factors_of_one_row_and_of_one_row_a_sample_scale_the_steering(z, folded, name):
    length = {"strength": 6, "region": TOKENS}[name]
    steered = folded.steer(z) - z
    half = folded.steer(z, **{name: torch.full((1, length), 0.5)}) - z
    torch.testing.assert_close(half, steered / 2)
    each = folded.steer(z, **{name: torch.tensor([0.0, 1.0])[:, None].expand(2, length)})
    assert torch.equal(each[0], z[0])
    torch.testing.assert_close(each[1] - z[1], steered[1])


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("strength", torch.ones(3, 6), ValueError, r"strength has shape \(3, 6\).*\(1, 6\) or \(2, 6\)"),
        ("strength", torch.ones(6), ValueError, r"strength has shape \(6,\)"),
        ("strength", torch.ones(1, 5), ValueError, r"strength has shape \(1, 5\)"),
        ("strength", torch.ones(1, 7), ValueError, r"strength has shape \(1, 7\)"),
        ("strength", torch.ones(1, 6, 1), ValueError, r"strength has shape \(1, 6, 1\)"),
        ("strength", torch.ones(1, 6, dtype=torch.int64), TypeError, "strength is torch.int64"),
        ("strength", torch.ones(1, 6, device="meta"), ValueError, "strength is on meta, but hidden_states on cpu"),
        ("region", torch.ones(3, TOKENS), ValueError, r"region has shape \(3, 30\).*\(1, 30\) or \(2, 30\)"),
        ("region", torch.ones(1, TOKENS - 1), ValueError, r"region has shape \(1, 29\)"),
        ("region", torch.ones(1, TOKENS, device="meta"), ValueError, "region is on meta"),
        ("region", torch.ones(1, TOKENS, dtype=torch.bool), TypeError, "region is torch.bool"),
        ("onto", torch.ones(1, TOKENS, tiny.DIM), ValueError, r"onto is \(\(1, 30, 64\).*\(2, 30, 64\)"),
        ("onto", torch.ones(BATCH, TOKENS, tiny.DIM).half(), ValueError, "onto is .*torch.float16.*torch.float32"),
        ("onto", torch.ones(BATCH, TOKENS, tiny.DIM, device="meta"), ValueError, "onto is .*meta.*cpu"),
    ],
)
def test_what_does_not_fit_the_video_tokens_is_refused_with_both(z, folded, name, value, error, message):
    for steer in (folded.steer, lambda *args, **kwargs: tiny.router().apply_folded(z, folded, **kwargs)):
        with pytest.raises(error, match=message):
            steer(z, **{name: value})
    if name == "strength":
        with pytest.raises(error, match=message):
            tiny.router()(z, tiny.tokens(BATCH), strength=value)
    if name == "region":
        with pytest.raises(error, match=message):
            folded.route_weights(z, value)


def test_an_identity_that_was_folded_elsewhere_is_refused(z, folded):
    elsewhere = FoldedIdentity(**{name: t if t is None else t.to("meta") for name, t in vars(folded).items()})
    with pytest.raises(ValueError, match="folded on meta, but hidden_states is on cpu"):
        elsewhere.steer(z)
