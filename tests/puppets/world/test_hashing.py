"""Random numbers that follow from a seed alone."""

import numpy as np
import pytest
import torch

from lavieid_adapters.puppets.world.hashing import as_seeds, uniform

SEEDS = torch.tensor([0, 1, 2, 77, 2**31, 2**32, 2**40 + 7, 2**62])


def test_a_seed_gives_the_same_numbers_in_every_batch():
    together = uniform(SEEDS, 50, 7)
    for split in (1, 3, 5):
        assert torch.equal(torch.cat([uniform(part, 50, 7) for part in SEEDS.split(split)]), together)
    assert torch.equal(uniform(SEEDS.flip(0), 50, 7).flip(0), together)
    assert torch.equal(uniform(SEEDS, 20, 7), together[:, :20])


def test_seeds_streams_and_numbers_are_unrelated():
    many = torch.cat([uniform(torch.arange(2000), 8, stream) for stream in (1, 2)], 1)
    correlations = torch.corrcoef(torch.cat([many[1:], many[:-1]], 1).T) - torch.eye(32)
    assert correlations.abs().max() < 0.1
    assert len(uniform(SEEDS, 1, 1).unique()) == len(SEEDS)


def test_numbers_are_uniform_multiples_of_a_power_of_2():
    numbers = uniform(torch.arange(1000), 100, 3)
    assert numbers.dtype == torch.float32 and numbers.min() >= 0 and numbers.max() < 1
    assert torch.equal((numbers * 2**24).round() / 2**24, numbers)
    shares = torch.histc(numbers, 20, 0, 1) / numbers.numel()
    assert (shares - 0.05).abs().max() < 0.005


def test_they_are_what_they_were():
    # People and clips are known by their seeds: other numbers would be other people.
    assert (uniform(torch.tensor([1, 2**40 + 7]), 2, 101) * 2**24).long().tolist() == [
        [5025658, 2256919],
        [4812830, 14803151],
    ]


def test_whole_numbers_of_any_kind_are_seeds():
    expected = torch.tensor([3, 5])
    for seeds in ([3, 5], (np.int32(3), np.int64(5)), range(3, 7, 2), torch.tensor([3, 5], dtype=torch.int32)):
        given = as_seeds(seeds, "cpu")
        assert torch.equal(given, expected) and given.dtype == torch.int64


@pytest.mark.parametrize(
    ("seeds", "error", "message"),
    [
        ([1, 0.5], TypeError, r"A seed is 0\.5, a float"),
        (torch.zeros(2), TypeError, r"torch\.float32, but must be whole numbers"),
        (torch.zeros(2, dtype=torch.bool), TypeError, r"torch\.bool"),
        (torch.zeros(2, 2, dtype=torch.int64), ValueError, r"shape \(2, 2\)"),
        ([4, -1], ValueError, "smallest seed is -1"),
    ],
)
def test_what_are_no_seeds_is_refused(seeds, error, message):
    with pytest.raises(error, match=message):
        as_seeds(seeds, "cpu")
