import copy
import pickle

import pytest
from support import tiny
from support.pipelines import build

from lavieid_adapters import attach, attach_lavieid
from lavieid_adapters.attachment.handle import Handle


class Noting(Handle):
    """A handle that notes when it is taken off."""

    def __init__(self):
        super().__init__()
        self.taken_off = 0

    def _take_off(self):
        self.taken_off += 1

    def _describe(self):
        return f"Noting({'enabled' if self.enabled else 'disabled'})"


def handles():
    """A handle of each class, and what it is called."""
    pipe = build()[0]
    lavieid = attach_lavieid(pipe, [tiny.router(), tiny.tam()])
    return [lavieid, lavieid.tam_handle, attach(tiny.router(1), pipe.transformer)]


def test_it_is_taken_off_once_and_at_the_end_of_its_block():
    with Noting() as handle:
        assert repr(handle) == "Noting(enabled)"
        with handle.disabled():
            assert repr(handle) == "Noting(disabled)"
    handle.detach()
    assert handle.taken_off == 1
    assert repr(handle) == "Noting(detached)"


@pytest.mark.parametrize("value", [0, 1, None, "no", 0.0])
def test_enabled_is_true_or_false(value):
    for handle in handles():
        for fits in (False, True):
            handle.enabled = fits
            assert handle.enabled is fits
        with pytest.raises(TypeError, match=r"enabled is .*, but must be True or False"):
            handle.enabled = value
        assert handle.enabled is True


def test_what_was_disabled_before_stays_so_and_what_was_detached_within_too():
    handle = Noting()
    handle.enabled = False
    with handle.disabled():
        pass
    assert not handle.enabled
    handle.enabled = True
    with pytest.raises(KeyError), handle.disabled():
        raise KeyError
    assert handle.enabled
    with handle.disabled():
        handle.detach()
    assert handle.taken_off == 1


def test_a_detached_handle_can_neither_be_switched_nor_disabled():
    for handle in handles():
        handle.detach()
        message = f"This {type(handle).__name__} has been detached"
        with pytest.raises(ValueError, match=message):
            handle.enabled = False
        with pytest.raises(ValueError, match=message), handle.disabled():
            pass


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_can_be_neither_copied_nor_pickled(make):
    for handle in handles():
        with pytest.raises(TypeError, match=f"attached {type(handle).__name__} can be neither copied nor pickled"):
            make(handle)
