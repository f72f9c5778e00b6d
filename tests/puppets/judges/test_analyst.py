"""The judge of what a frame shows, untrained: what its readings may depend on."""

import pytest
import torch

from lavieid_adapters.puppets.judges.analyst import POSE, Analyst, background_region, check_world
from lavieid_adapters.puppets.world.person import PARAMETERS, STYLES


def test_background_is_beside_and_above_the_head():
    inside = torch.zeros(1, 1, 24, 24)
    inside[..., 6:20, 8:16] = 1
    background = background_region(inside)[0, 0] > 0.5
    assert background[:14, :7].all() and background[:14, 17:].all() and background[:5].all()
    assert not background[6:20, 8:16].any() and not background[5:, 7:17].any()
    assert not background[15:].any(), "shoulders are there"
    nobody = background_region(torch.zeros(1, 1, 24, 24))
    assert nobody.min() > 0 and nobody.unique().numel() == 1


def test_what_components_look_like_is_read_from_their_own_pixels():
    # Same maps, other features in the hair alone: only the readings of hair may change.
    analyst, seen, turned = Analyst().eval(), torch.randn(1, 6, 96), torch.randn(1, 42)
    other = seen.clone()
    other[:, 5] += 1
    with torch.no_grad():
        (before, _), (after, _) = analyst._traits(seen, turned), analyst._traits(other, turned)
    changed = (before != after)[0]
    assert changed.tolist() == [parameter.component == "hair" for parameter in PARAMETERS]


def test_standardised_features_have_mean_0_and_spread_1():
    torch.manual_seed(0)
    analyst = Analyst().eval()
    images = torch.rand(12, 3, 96, 96) * 2 - 1
    images *= torch.linspace(0.1, 1, 12)[:, None, None, None]
    with torch.no_grad():
        before = analyst(images)
        assert before.background.mean(0).abs().max() > 0.01
        analyst.standardise(before.subject, before.background)
        after = analyst(images)
    for features in (after.subject, after.background):
        torch.testing.assert_close(features.mean(0), torch.zeros(features.shape[1]), atol=2e-3, rtol=0)
    assert after.background.std(0).median() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(after.scene, before.scene)


def test_it_reads_all_of_a_frame():
    torch.manual_seed(0)
    analyst = Analyst().eval()
    with torch.no_grad():
        read = analyst(torch.rand(2, 3, 96, 96) * 2 - 1)
    assert read.maps.shape == (2, 7, 96, 96) and read.values.shape == (2, len(PARAMETERS))
    assert [logits.shape[1] for logits in read.styles] == [len(style.choices) for style in STYLES]
    assert read.pose.shape == (2, POSE) and read.signs.shape == (2, analyst.num_signs)
    assert (read.values[0] - read.values[1]).abs().max() > 0 and read.values.min() > 0 and read.values.max() < 1


def test_a_world_that_differs_in_order_alone_is_another():
    check_world("scenes", ("a", "b"), ["a", "b"])
    with pytest.raises(ValueError, match=r"knows 2 scenes .* now has 2; they differ in their order"):
        check_world("scenes", ("b", "a"), ("a", "b"))
