"""Work on several threads, each of which computes alone."""

import threading

import pytest
import torch

from lavieid_adapters.puppets.world.parallel import on_every_core


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_are_in_order_and_made_by_several_threads(three_threads):
    together = threading.Barrier(3, timeout=30)  # passes only if three run at once

    def work(i: int) -> tuple[int, int, int]:
        if i < 3:
            together.wait()
        return i, torch.get_num_threads(), threading.get_ident()

    done = on_every_core(work, 12)
    assert [i for i, _, _ in done] == list(range(12))
    assert {threads for _, threads, _ in done} == {1}
    assert len({ident for _, _, ident in done}) == 3
    assert torch.get_num_threads() == 3


def test_the_setting_is_put_back_after_an_error(three_threads):
    with pytest.raises(ZeroDivisionError):
        on_every_core(lambda i: 1 // (i - 1), 4)
    assert torch.get_num_threads() == 3


def test_with_one_thread_nothing_is_started(three_threads):
    torch.set_num_threads(1)
    assert on_every_core(lambda i: threading.get_ident(), 3) == [threading.get_ident()] * 3
