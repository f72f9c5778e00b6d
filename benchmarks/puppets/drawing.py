"""How fast the drawn world is drawn: `python benchmarks/puppets/drawing.py [--device cuda]`.

Clips of 33 frames of 96 × 96 with their component maps. On a GPU also by the compiled renderer.
"""

import argparse
import statistics
import time

import torch

from lavieid_adapters.puppets import draw_clips, people


def clips_a_second(count: int, device: torch.device, compiled: bool, repeats: int = 7) -> list[float]:
    """Clips a second in each of some repeats, after one that warms up."""
    crowd, seeds = people(range(count), device), torch.arange(count, device=device)
    rates = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        draw_clips(crowd, seeds, compile=compiled)
        if device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(count / (time.perf_counter() - begin))
    return rates[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    cuda = device.type == "cuda"
    where = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} cores"
    print("| | clips a second | least to most |\n| --- | --- | --- |")
    for compiled in (False, True) if cuda else (False,):
        rates = clips_a_second(2048 if cuda else 64, device, compiled)
        how = "compiled" if compiled else "eager"
        print(f"| {where}, {how} | {statistics.median(rates):.1f} | {min(rates):.1f} to {max(rates):.1f} |", flush=True)


if __name__ == "__main__":
    main()
