"""Checks of settings: numbers, sizes and switches, each refused where it is set, by its name and value.

Every adapter and every handle takes its settings through these, so that no file needs the checks of another.
"""

import math
import operator


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


def size(name: str, value: int) -> int:
    """Return `value`, a count of things of which there must be one at least, as an int.

    Raises:
        TypeError: If it is not a whole number; 2.0 and True are none.
        ValueError: If it is less than 1.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}), but must be a whole number.") from None
    if number < 1:
        raise ValueError(f"{name} is {value}, but must be at least 1.")
    return number


def switch(name: str, value: bool) -> bool:
    """Return `value`.

    Raises:
        TypeError: If it is neither True nor False; 0, 1 and "no" are neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}), but must be True or False.")
    return value


def _number(name: str, value: float) -> float:
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}), but must be a number.") from None
