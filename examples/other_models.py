"""One photo, one person, on another video model than CogVideoX: Wan, HunyuanVideo or LTX-Video.

    python examples/other_models.py wan --adapters me/lavieid-wan --image photo.jpg --prompt "She walks in a park."
    python examples/other_models.py hunyuan-video --adapters me/lavieid-hunyuan --image photo.jpg
    python examples/other_models.py ltx-video --model a/folder --adapters b/folder --identity me.safetensors --steps 8

With a photo and without --adapters they are fresh ones, which change nothing until they are trained. Both transformers
of Wan 2.2 get the router. The pipelines are diffusers' own; what differs between them is what their authors recommend.
"""

import argparse
from pathlib import Path

import torch
from diffusers import HunyuanVideoPipeline, LTXPipeline, WanPipeline

from lavieid_adapters import attach_lavieid
from lavieid_adapters.visualize.route_video import write_video

PROMPT = "She walks through a park in autumn."
# Pipeline, Hub id, frames a second, and what a run takes.
MODELS = {
    "wan": (
        WanPipeline, "Wan-AI/Wan2.1-T2V-14B-Diffusers", 16,
        {"num_frames": 81, "height": 480, "width": 832, "guidance_scale": 5.0, "num_inference_steps": 50},
    ),
    "hunyuan-video": (
        HunyuanVideoPipeline, "hunyuanvideo-community/HunyuanVideo", 15,
        {"num_frames": 61, "height": 544, "width": 960, "guidance_scale": 6.0, "num_inference_steps": 30},
    ),
    "ltx-video": (
        LTXPipeline, "Lightricks/LTX-Video", 24,
        {"num_frames": 97, "height": 480, "width": 704, "guidance_scale": 3.0, "num_inference_steps": 50},
    ),
}  # fmt: skip


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("--model", help="Hub id or folder of another pipeline of this kind")
    parser.add_argument("--adapters", help="Hub id or folder of adapters that were trained on it")
    person = parser.add_mutually_exclusive_group(required=True)
    person.add_argument("--image", help="photo of the person")
    person.add_argument("--identity", help="identity file, as `lavieid identity` writes it")
    parser.add_argument("--prompt", default=PROMPT, help="(%(default)s)")
    parser.add_argument("--steps", type=int, help="of denoising")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("outputs/other_models.mp4"), help="(%(default)s)")
    args = parser.parse_args()
    if args.identity and not args.adapters:
        parser.error("--identity needs --adapters: an identity file goes with the encoder that made it, no fresh one")
    return args


def main() -> None:
    args = parse_args()
    cls, model, fps, settings = MODELS[args.name]
    asked = {"num_inference_steps": args.steps, "num_frames": args.frames, "height": args.height, "width": args.width}
    settings = {**settings, **{name: value for name, value in asked.items() if value is not None}}
    cuda = torch.cuda.is_available()
    pipe = cls.from_pretrained(args.model or model, dtype=torch.bfloat16 if cuda else torch.float32)
    if cuda:
        pipe.enable_model_cpu_offload()
    lavieid = attach_lavieid(pipe, args.adapters)
    lavieid.set_identity(args.image or args.identity)
    print(lavieid)
    generator = torch.Generator().manual_seed(args.seed)
    video = pipe(args.prompt, generator=generator, output_type="np", **settings).frames[0]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_video((video * 255).round().astype("uint8"), args.output, fps)
    print(f"{args.output}: {len(video)} frames")


if __name__ == "__main__":
    main()
