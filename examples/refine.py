"""TAM alone, on the latents of a model that it was trained for: the same video without and with it, side by side.

    python examples/refine.py --model Wan-AI/Wan2.1-T2V-14B-Diffusers --adapters me/tam-wan --prompt "A boat on a lake."

Any text-to-video pipeline that `attach_lavieid` takes will do; there is no photo, and the transformer is left
alone. Without --adapters TAM is a fresh one, which changes nothing until it is trained.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline

from lavieid_adapters import TAM, attach_lavieid
from lavieid_adapters.attachment.attach import fresh_adapter
from lavieid_adapters.visualize.route_video import write_video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub id or folder of a video pipeline")
    parser.add_argument("--adapters", help="Hub id or folder with tam/ in it")
    parser.add_argument("--prompt", default="A boat crosses a lake at sunset.", help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=50, help="of denoising (%(default)s)")
    for size in ("frames", "height", "width"):
        parser.add_argument(f"--{size}", type=int, help="the pipeline's own if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fps", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs/refine.mp4"), help="(%(default)s)")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    pipe = DiffusionPipeline.from_pretrained(args.model, dtype=torch.bfloat16 if cuda else torch.float32)
    if cuda:
        pipe.enable_model_cpu_offload()
    tam = TAM.from_pretrained(args.adapters, subfolder="tam") if args.adapters else fresh_adapter("tam", pipe)
    lavieid = attach_lavieid(pipe, tam)
    print(lavieid)

    def generate() -> np.ndarray:
        sizes = {"num_frames": args.frames, "height": args.height, "width": args.width}
        settings = {name: size for name, size in sizes.items() if size is not None}
        generator = torch.Generator().manual_seed(args.seed)
        return pipe(
            prompt=args.prompt, num_inference_steps=args.steps, generator=generator, output_type="np", **settings
        ).frames[0]  # fmt: skip

    with lavieid.disabled():
        before = generate()
    after = generate()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    pair = (np.concatenate([before, after], axis=2) * 255).round().astype(np.uint8)
    write_video(pair, args.output, args.fps)
    change = abs(after - before).mean()
    print(f"{args.output}: without TAM on the left, with it on the right; they differ by {change:.4f}")


if __name__ == "__main__":
    main()
