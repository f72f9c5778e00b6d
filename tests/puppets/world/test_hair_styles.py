"""The numbers of hair styles."""

import itertools

import torch

from lavieid_adapters.puppets.world.hair_styles import hair_shapes
from lavieid_adapters.puppets.world.person import STYLES

NAMES = STYLES[0].choices
ALL = hair_shapes(torch.arange(len(NAMES)))


def of(name: str) -> dict[str, float]:
    return {key: value[NAMES.index(name)].item() for key, value in ALL.items()}


def test_every_style_has_numbers_of_its_own():
    table = torch.cat(list(ALL.values()), 1)[..., 0, 0]
    assert table.shape == (len(NAMES), len(ALL)) and table.dtype == torch.float32 and table.isfinite().all()
    assert all(not torch.equal(table[a], table[b]) for a, b in itertools.combinations(range(len(NAMES)), 2))


def test_they_broadcast_over_frames_in_the_order_of_the_people():
    some = hair_shapes(torch.tensor([5, 0, 5]))
    assert all(value.shape == (3, 1, 1, 1) for value in some.values())
    for key, value in some.items():
        assert torch.equal(value, ALL[key][[5, 0, 5]])


def test_styles_are_what_their_names_say():
    assert of("bald")["dense"] == of("bald")["back"] == of("bald")["casts"] == 0
    assert 0 < of("buzz cut")["dense"] < 1 == of("short")["dense"]
    assert of("long")["end"] > of("bob")["end"] > of("short")["end"]
    assert of("afro")["volume"] > of("curly")["volume"] > of("short")["volume"]
    assert {name for name in NAMES if of(name)["blob"]} == {"bun", "ponytail", "two buns"}
    assert {name for name in NAMES if of(name)["pair"]} == {"two buns"}
