"""The demo's pictures: panels beside each other, and the contact sheet."""

import numpy as np
import pytest

from lavieid_adapters.puppets.panels import Panel, contact_sheet, side_by_side_frames, with_insets

PROMPT = "A person nods in a park, with a smile."


def panels(frames: int = 5) -> list[Panel]:
    moving = np.zeros((frames, 96, 96, 3), np.uint8)
    moving[:, :, :, 0] = 40 * np.arange(frames)[:, None, None]
    return [Panel("reference", "person 3", np.full((1, 128, 128, 3), 90, np.uint8)), Panel("routes", None, moving)]


def test_frames_show_all_panels_and_a_still_stays():
    first, *_, last = side_by_side_frames(panels(), PROMPT)
    assert first.size == last.size and not any(side % 2 for side in first.size)
    differ = np.flatnonzero((np.asarray(first) != np.asarray(last)).any((0, 2)))
    assert differ[0] > first.width // 2 and len(differ) == 288
    assert np.asarray(first)[150, 100].tolist() == [90] * 3
    untitled, *_ = side_by_side_frames(panels(), "")
    assert np.asarray(untitled) != pytest.approx(np.asarray(first))


def test_those_who_lend_a_component_are_shown_small():
    picture, inset = np.zeros((128, 128, 3), np.uint8), np.full((128, 128, 3), 255, np.uint8)
    bright = [(with_insets(picture, [inset] * count) == 255).mean() for count in (0, 1, 2, 5)]
    assert bright[0] == 0 and 2 * bright[1] == pytest.approx(bright[2]) and 0.1 < bright[-1] < 0.2


def test_the_contact_sheet_has_a_row_a_panel():
    reference, moving = panels()
    one, two = contact_sheet(reference, [moving], PROMPT), contact_sheet(reference, [moving, moving], PROMPT)
    assert one.width == two.width and two.height > 1.7 * one.height
    assert len(np.unique(np.asarray(one)[100, :, 0])) > 4
