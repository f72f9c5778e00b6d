"""Checks of settings: what is of their kind comes back, all else is an error with the name and the value."""

import math

import numpy as np
import pytest
import torch

from lavieid_adapters.models.checks import finite, floating, fraction, size, sizes, switch, whole

NO_NUMBERS = ["1", b"1", None, [1], True, np.array([1.0, 2.0]), 1j]


@pytest.mark.parametrize("value", [0, -1.5, 7, np.float32(0.5), np.int64(3), torch.tensor(2.5)])
def test_finite_gives_a_float(value):
    number = finite("scale", value)
    assert type(number) is float and number == float(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, torch.tensor(math.nan)])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match=r"scale is .*(nan|inf).*finite"):
        finite("scale", value)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize("check", [finite, fraction])
def test_what_is_no_number_is_refused(check, value):
    with pytest.raises(TypeError, match=r"start is (?s:.*), but must be a number"):
        check("start", value)


def test_fractions_go_from_0_to_1():
    assert [fraction("start", value) for value in (0, 0.25, 1)] == [0, 0.25, 1]
    for value in (-0.001, 1.001, math.nan):
        with pytest.raises(ValueError, match=f"start is {value}.*0 to 1"):
            fraction("start", value)


@pytest.mark.parametrize("value", [1, 6, np.int64(3), torch.tensor(2)])
def test_sizes_give_an_int(value):
    assert type(size("chunks", value)) is int and size("chunks", value) == int(value)
    assert whole("block_idx", -value) == -int(value)


@pytest.mark.parametrize("value", [2.0, 2.5, "2", None, True, np.float64(2), torch.tensor(2.0)], ids=repr)
def test_what_is_no_whole_number_is_refused(value):
    for check in (size, whole):
        with pytest.raises(TypeError, match=r"chunks is .*, but must be a whole number"):
            check("chunks", value)


@pytest.mark.parametrize("value", [0, -3])
def test_sizes_below_1_are_refused(value):
    with pytest.raises(ValueError, match=f"chunks is {value}, but must be at least 1"):
        size("chunks", value)
    with pytest.raises(ValueError, match=f"chunks is {value}, but must be at least 1"):
        sizes(dim=4, chunks=value)


def test_switches_are_true_or_false():
    assert switch("background", True) is True and switch("background", False) is False
    for value in (0, 1, "no", None, np.bool_(True)):
        with pytest.raises(TypeError, match=r"background is .*, but must be True or False"):
            switch("background", value)


def test_dtypes_of_16_bits_or_more_are_computed_in():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        floating("latents", torch.empty(1, dtype=dtype))
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.int64, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match=f"latents is {dtype}"):
            floating("latents", torch.empty(1, dtype=dtype))
