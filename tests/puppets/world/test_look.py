"""Traits and colours of people under a light."""

import torch
from support.easel import PLAIN, changed, front_light, styled

from lavieid_adapters.puppets.world.look import Light, Look
from lavieid_adapters.puppets.world.person import PARAMETERS


def look(crowd=PLAIN, light: Light | None = None) -> Look:
    return Look(crowd, light or front_light(len(crowd)))


def test_traits_are_the_persons_and_broadcast():
    of = look()
    assert of.trait.keys() == {parameter.name for parameter in PARAMETERS}
    for name, value in of.trait.items():
        assert value.shape == (4, 1, 1, 1)
        torch.testing.assert_close(value.flatten(), PLAIN.trait(name))


def test_colours_are_within_range_and_follow_the_parameters():
    for name in ("skin", "hair"):
        dark, light = (getattr(look(changed(PLAIN, **{f"{name}_lightness": value})), name) for value in (0.0, 1.0))
        assert dark.shape == (4, 3, 1, 1, 1) and dark.min() >= 0 and light.max() <= 1
        assert (light.mean(1) > dark.mean(1)).all()
    assert (look(changed(PLAIN, skin_hue=1.0)).skin[:, 0] > look(changed(PLAIN, skin_hue=-1.0)).skin[:, 0]).all()


def test_brows_have_the_hairs_colour_and_lips_are_redder_than_the_skin():
    of = look(changed(PLAIN, lip_strength=1.0))
    ratio = of.brows / of.hair
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert (of.lips[:, 0] / of.lips[:, 1] > of.skin[:, 0] / of.skin[:, 1]).all()


def test_the_light_colours_all():
    white = front_light(4)
    colour = torch.tensor([1.0, 0.5, 0.5]).view(1, 3, 1, 1, 1).expand(4, -1, 1, 1, 1)
    red = Light(white.x, white.y, white.z, colour, white.shadow)
    for name in ("skin", "hair", "iris", "lips", "brows", "white", "dark"):
        in_white, in_red = getattr(look(), name), getattr(look(light=red), name)
        torch.testing.assert_close(in_red, in_white * red.colour)
        assert not torch.equal(in_red, in_white)


def test_a_part_of_the_light_is_that_of_some_people():
    light = front_light(4)
    assert all(len(value) == 2 for value in vars(light[1:3]).values())


def test_styles_are_read_by_name():
    of = look(styled(PLAIN[:2], beard="stubble"))
    assert of.choice("beard").tolist() == [1, 1]
    assert of.is_style("beard", "stubble").flatten().tolist() == [1.0, 1.0]
    assert of.is_style("beard", "none").shape == (2, 1, 1, 1) and not of.is_style("beard", "none").any()


def test_tinted_skin():
    of = look()
    torch.testing.assert_close(of.tinted(0.5, 1.0, 0.0), of.skin * torch.tensor([0.5, 1.0, 0.0]).view(1, 3, 1, 1, 1))
