"""Work on several cores of a CPU, one piece a thread; it knows nothing of what is drawn."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")


def on_every_core(function: Callable[[int], Piece], count: int) -> list[Piece]:
    """Call a function for 0 to count - 1, on as many threads as torch may use, of which each then computes alone.

    The arithmetic of a drawn clip is thousands of small steps. To share out each of them costs more than it gains.

    Args:
        function: What to do for a number.
        count: How many numbers.

    Returns:
        What the function returned, in order.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [function(i) for i in range(count)]
    try:
        # A thread's own setting is also what torch would give to threads that others start later: it is put back below.
        with ThreadPoolExecutor(min(threads, count), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, range(count)))
    finally:
        torch.set_num_threads(threads)
