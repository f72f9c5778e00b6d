"""Timing on a GPU, for the benchmarks beside it."""

import subprocess
import time
from collections.abc import Callable
from statistics import quantiles

import torch


def time_ms(
    function: Callable[[], object],
    repeats: int = 50,
    warmup: int = 10,
    pause: float = 0.0,
    before: Callable[[], object] = lambda: None,
) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile of a function's milliseconds on the GPU, each call between two events.

    Calls follow each other at once, or after `pause` seconds in which the card is idle, or after a call of `before`
    that is not timed.
    """
    for _ in range(warmup):
        function()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for begin, end in events:
        if pause:
            torch.cuda.synchronize()
            time.sleep(pause)
        before()
        begin.record()
        function()
        end.record()
    torch.cuda.synchronize()
    times = [begin.elapsed_time(end) for begin, end in events]
    deciles = quantiles(times, n=10)
    return sorted(times)[len(times) // 2], deciles[0], deciles[-1]


def peak_gib(function: Callable[[], object]) -> float:
    """How far a function's peak of allocated memory lies above what is allocated when it begins."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def matmul_tflops(rows: int, inner: int, cols: int) -> float:
    """Measured rate of a bf16 matrix product on random data."""
    a = torch.randn(rows, inner, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(cols, inner, device="cuda", dtype=torch.bfloat16)
    return 2 * rows * inner * cols / time_ms(lambda: torch.nn.functional.linear(a, b))[0] / 1e9


def copy_tb_s() -> float:
    """Measured bandwidth of a copy, bytes read and written."""
    a = torch.randn(2**30, device="cuda")
    b = torch.empty_like(a)
    return 2 * a.nbytes / time_ms(lambda: b.copy_(a))[0] / 1e9


def machine() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout.strip().split("\n")[0]
    return f"{driver}, torch {torch.__version__}"
