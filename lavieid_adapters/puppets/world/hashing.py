"""Random numbers as a function of a seed: the same on every device and in every batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

# n seeds · k numbers a seed

_MASK = 0xFFFFFFFF


def as_seeds(seeds: Sequence[int] | Tensor, device: torch.device | str) -> Tensor:
    """Check seeds, and put them on a device.

    Args:
        seeds: (n,) whole numbers, none negative.
        device: Where they are needed.

    Returns:
        (n,) int64.

    Raises:
        TypeError: If a seed is not a whole number.
        ValueError: If the seeds are not one row, or one is negative.
    """
    if isinstance(seeds, Tensor):
        values = seeds
    else:
        wrong = [seed for seed in seeds if not hasattr(seed, "__index__")]
        if wrong:
            raise TypeError(f"A seed is {wrong[0]!r}, a {type(wrong[0]).__name__}, but seeds are whole numbers.")
        values = torch.tensor([int(seed) for seed in seeds], dtype=torch.int64)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"The seeds are {values.dtype}, but must be whole numbers. Pass them as int64.")
    if values.ndim != 1:
        raise ValueError(f"The seeds have shape {tuple(values.shape)}, but must be one row of n seeds.")
    # Where the seeds are on a GPU already, a look at them would wait for it; the hash takes any int64.
    if not values.is_cuda and len(values) and int(values.min()) < 0:
        raise ValueError(f"The smallest seed is {int(values.min())}, but seeds start at 0.")
    return values.to(device=device, dtype=torch.int64)


def uniform(seeds: Tensor, count: int, stream: int) -> Tensor:
    """Draw independent numbers, uniform in 0..1, for each seed.

    Args:
        seeds: (n,) int64.
        count: How many numbers a seed.
        stream: Which of the unrelated families of numbers.

    Returns:
        (n, count) float32, multiples of 2^-24.
    """
    index = torch.arange(count, device=seeds.device, dtype=torch.int64)
    low, high = seeds[:, None] & _MASK, (seeds[:, None] >> 32) & _MASK
    # Murmur3's finaliser. A product of two 32-bit numbers may wrap in int64: its low 32 bits stay right.
    x = _mix(low ^ _mix(high + 0x9E3779B9 * (stream + 1)))
    x = _mix(x + index * 0x85EBCA77)
    return (x >> 8).to(torch.float32) * 2.0**-24


def _mix(x: Tensor) -> Tensor:
    x = x & _MASK
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _MASK
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _MASK
    return x ^ (x >> 16)
