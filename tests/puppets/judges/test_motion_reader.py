"""The judge of motion, untrained: what it takes, and that the order of the frames matters."""

import pytest
import torch

from lavieid_adapters.puppets.judges.motion_reader import MotionReader
from lavieid_adapters.puppets.world.grammar import MOTIONS


@pytest.fixture
def reader() -> MotionReader:
    torch.manual_seed(0)
    return MotionReader(8).eval()


def test_it_gives_a_row_of_logits_a_clip_of_any_length(reader):
    with torch.no_grad():
        for frames in (1, 9, 33):
            assert reader(torch.randn(2, frames, 6), torch.randn(2, frames, 8)).shape == (2, len(MOTIONS))


def test_a_clip_that_runs_backwards_is_another_motion(reader):
    pose, signs = torch.randn(1, 33, 6), torch.randn(1, 33, 8)
    with torch.no_grad():
        forwards, again, backwards = reader(pose, signs), reader(pose, signs), reader(pose.flip(1), signs.flip(1))
    assert torch.equal(forwards, again) and (forwards - backwards).abs().max() > 1e-3


def test_it_is_the_same_from_its_file(reader, tmp_path):
    reader.save_pretrained(tmp_path)
    given = torch.randn(1, 9, 6), torch.randn(1, 9, 8)
    torch.testing.assert_close(MotionReader.from_pretrained(tmp_path)(*given), reader(*given))
