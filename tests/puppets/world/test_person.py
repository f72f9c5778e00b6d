"""Who is drawn: the same person from the same seed, and nobody who looks like another."""

import pytest
import torch

from lavieid_adapters.models.identity import FACIAL_COMPONENTS
from lavieid_adapters.puppets.world.person import (
    EVALUATION_PEOPLE,
    PARAMETERS,
    STYLES,
    TEST_PEOPLE,
    TRAINING_PEOPLE,
    People,
    people,
)


def test_a_seed_is_the_same_person_in_every_batch():
    crowd = people(range(500))
    alone = people([123])
    assert torch.equal(alone.values, crowd[123].values)
    assert torch.equal(alone.styles, crowd[123].styles)
    assert not torch.equal(crowd[122].values, alone.values)


def test_seeds_beyond_32_bits_are_other_people():
    pair = people([5, 5 + 2**32])
    assert not torch.equal(pair.values[0], pair.values[1])


def test_nobody_is_in_two_groups():
    assert not set(TRAINING_PEOPLE) & set(TEST_PEOPLE)
    assert set(EVALUATION_PEOPLE) < set(TEST_PEOPLE)


def test_every_component_has_traits_and_there_are_enough():
    assert len(PARAMETERS) >= 24
    assert {parameter.component for parameter in PARAMETERS} == set(FACIAL_COMPONENTS)
    assert len({parameter.name for parameter in PARAMETERS}) == len(PARAMETERS)
    assert all(abs(sum(style.odds) - 1.0) < 1e-6 and len(style.odds) == len(style.choices) for style in STYLES)


def test_values_fill_their_range_and_are_independent():
    values = people(range(4000)).values
    assert values.min() >= 0.0 and values.max() < 1.0
    assert (values.mean(0) - 0.5).abs().max() < 0.03
    assert (values.std(0) - 12**-0.5).abs().max() < 0.02
    correlations = torch.corrcoef(values.T) - torch.eye(len(PARAMETERS))
    assert correlations.abs().max() < 0.08


def test_styles_come_with_their_odds():
    styles = people(range(4000)).styles
    for i, style in enumerate(STYLES):
        shares = torch.bincount(styles[:, i], minlength=len(style.choices)) / len(styles)
        assert (shares - torch.tensor(style.odds)).abs().max() < 0.03, style.name


def test_a_component_is_lent_and_nothing_else():
    a, b = people(range(8)), people(range(8, 16))
    mixed = a.with_component("hair", b)
    for i, parameter in enumerate(PARAMETERS):
        lender = b if parameter.component == "hair" else a
        assert torch.equal(mixed.values[:, i], lender.values[:, i])
    for i, style in enumerate(STYLES):
        lender = b if style.component == "hair" else a
        assert torch.equal(mixed.styles[:, i], lender.styles[:, i])
    assert torch.equal(a.values, people(range(8)).values)
    assert torch.equal(a.mix(hair=b, eyes=b[0]).trait("iris_hue"), b[0].trait("iris_hue").expand(8))


def test_traits_are_scaled_and_named():
    crowd = people(range(100))
    width = crowd.trait("head_width")
    low, high = next((p.low, p.high) for p in PARAMETERS if p.name == "head_width")
    assert low <= width.min() < width.max() <= high
    assert crowd.style("glasses").max() == 2
    with pytest.raises(ValueError, match="no parameter 'charm'"):
        crowd.trait("charm")
    with pytest.raises(ValueError, match="no style 'hat'"):
        crowd.style("hat")


def test_people_are_indexed_like_a_row():
    crowd = people(range(10))
    assert len(crowd[3]) == 1 and len(crowd[2:5]) == 3 and len(crowd[torch.tensor([1, 1])]) == 2
    assert torch.equal(crowd[-1].values, crowd[9].values)
    assert [len(person) for person in crowd] == [1] * 10
    with pytest.raises(IndexError, match="Person 10 of 10"):
        crowd[10]


def test_what_are_no_people_is_refused():
    with pytest.raises(TypeError, match=r"a seed|A seed is 0\.5"):
        people([0.5])
    with pytest.raises(ValueError, match="smallest seed is -1"):
        people([-1])
    with pytest.raises(ValueError, match="one row"):
        people(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"torch\.float32"):
        people(torch.zeros(2))
    crowd = people(range(3))
    with pytest.raises(ValueError, match=r"must be \(n, "):
        People(crowd.values[:, :4], crowd.styles)
    with pytest.raises(TypeError, match=r"torch\.float64"):
        People(crowd.values.double(), crowd.styles)
    with pytest.raises(ValueError, match="3 rows of values and 2"):
        People(crowd.values, crowd.styles[:2])
    with pytest.raises(ValueError, match="no component 'chin'"):
        crowd.with_component("chin", crowd)
    with pytest.raises(ValueError, match="2 people cannot lend hair to 3"):
        crowd.with_component("hair", crowd[:2])
