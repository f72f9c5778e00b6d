"""Trains what looks at the drawn world, from nothing: the judges, and the models that the conditioning sees by.

    python benchmarks/puppets/train_sight.py --out outputs/sight --minutes 6 --device cuda
    python benchmarks/puppets/train_sight.py --out outputs/sight --minutes 6 --vae outputs/vae --compile
    python benchmarks/puppets/train_sight.py --out /tmp/sight --minutes 0.5 --device cpu --tiny

Writes the folders `recognizer`, `analyst` and `motion` (the judges), `face` and `vision` (the conditioning), in half
precision, and all figures into `sight.json`. Judges and conditioning learn from different people and drawings. Each
phase has its share of the time, and its learning rate falls to zero when that is up.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX
from figures import rounded
from judge_phases import JudgeData, train_analyst, train_motion, train_recognizer
from phase import TINY, Setting, Sizes, until
from sight_phases import SightData, train_face, train_vision

# Of each phase: its share of the time, what it learns from, and its training.
PHASES = {
    "recognizer": (0.30, JudgeData, train_recognizer),
    "analyst": (0.34, JudgeData, train_analyst),
    "motion": (0.06, JudgeData, train_motion),
    "face": (0.18, SightData, train_face),
    "vision": (0.12, SightData, train_vision),
}
_DRAWING = 0.3  # of the first phase that needs a pool goes to filling it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the models and sight.json")
    parser.add_argument("--minutes", type=float, default=6.0, help="for all phases together")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--vae", help="folder of an AutoencoderKLCogVideoX, through which a third of the clips go")
    parser.add_argument("--people", type=int, help=f"training identities ({Sizes.people})")
    parser.add_argument("--only", nargs="+", choices=PHASES, default=list(PHASES), help="train these alone")
    parser.add_argument("--compile", action="store_true", help="compile networks and drawing")
    parser.add_argument(
        "--tiny", action="store_true", help="sizes at which it all runs on a CPU, and nothing is learnt"
    )
    args = parser.parse_args()

    torch.manual_seed(0)
    if args.device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    sizes = TINY if args.tiny else Sizes(**({"people": args.people} if args.people else {}))
    device, vae = torch.device(args.device), None
    if args.vae:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        vae = (
            AutoencoderKLCogVideoX.from_pretrained(args.vae, torch_dtype=dtype).to(device).eval().requires_grad_(False)
        )
    args.out.mkdir(parents=True, exist_ok=True)
    setting = Setting(args.out, device, sizes, vae, args.compile)

    path = args.out / "sight.json"
    figures = json.loads(path.read_text()) if path.is_file() else {}
    start, begun, total = time.perf_counter(), 0.0, sum(PHASES[name][0] for name in args.only)
    data = None
    for name in [phase for phase in PHASES if phase in args.only]:
        share, kind, train = PHASES[name]
        begun += share
        # From the beginning of all: what one phase loses or saves, the next one has less or more.
        deadline = start + 60 * args.minutes * begun / total
        if not isinstance(data, kind):
            data = None  # frees the other's pool first
            data = kind(setting)
            data.fill(until(_DRAWING, deadline))
        before = time.perf_counter()
        report = train(data, deadline)
        figures[name] = rounded({"seconds": time.perf_counter() - before, **report})
        print(json.dumps({name: figures[name]}), flush=True)
        figures["setting"] = {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "torch": torch.__version__,
            "minutes": args.minutes,
            "people": sizes.people,
            "vae": bool(args.vae),
            "tiny": args.tiny,
        }
        path.write_text(json.dumps(figures, indent=1) + "\n")
    if device.type == "cuda":
        print(f"most memory: {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB", flush=True)


if __name__ == "__main__":
    main()
