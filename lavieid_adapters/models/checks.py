"""Checks of settings and of tensors' dtypes, each with an error that holds the name and the value.

Every adapter and every handle takes its settings through these, so that no file needs the checks of another.
"""

import math
import operator

import torch
from torch import Tensor

_COMPUTED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def finite(name: str, value: float) -> float:
    """Return `value` as a float.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is infinite or NaN.
    """
    number = _number(name, value)
    if not math.isfinite(number):
        raise ValueError(f"{name} is {value}, but must be a finite number.")
    return number


def fraction(name: str, value: float) -> float:
    """Return `value`, a fraction of a denoising run, as a float.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not from 0 to 1.
    """
    number = _number(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} is {value}, but must be a fraction of the run, 0 to 1.")
    return number


def whole(name: str, value: int) -> int:
    """Return `value` as an int.

    Raises:
        TypeError: If it is not a whole number; 2.0 and True are none.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}), but must be a whole number.") from None


def size(name: str, value: int) -> int:
    """Return `value`, a count of things of which there must be one at least, as an int.

    Raises:
        TypeError: If it is not a whole number.
        ValueError: If it is less than 1.
    """
    number = whole(name, value)
    if number < 1:
        raise ValueError(f"{name} is {value}, but must be at least 1.")
    return number


def sizes(**values: int) -> None:
    """Check several counts by their names, as `size` does."""
    for name, value in values.items():
        size(name, value)


def switch(name: str, value: bool) -> bool:
    """Return `value`.

    Raises:
        TypeError: If it is neither True nor False; 0, 1 and "no" are neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}), but must be True or False.")
    return value


def floating(name: str, tensor: Tensor) -> None:
    """Check that a tensor is of a dtype in which PyTorch computes.

    Raises:
        TypeError: If it is neither float16, bfloat16, float32 nor float64; 8-bit floats are for storage only.
    """
    if tensor.dtype not in _COMPUTED:
        raise TypeError(f"{name} is {tensor.dtype}, but must be floating point of 16 bits or more. Cast it with .to().")


def _number(name: str, value: float) -> float:
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}), but must be a number.") from None
