"""Generate a video of a person from one photo, beside what the same prompt and noise give without the photo.

    # the drawn world, whose models come with the package: on the CPU, no download
    python examples/generate.py
    python examples/generate.py --prompt "A person talks on a street at night, with a calm face."

    # a base, adapters and a photo of yours
    python examples/generate.py --model zai-org/CogVideoX-5b --adapters me/lavieid-cogvideox-5b --image photo.jpg \\
        --prompt "She walks through a park in autumn." --steps 50 --output park.mp4

In the drawn world a prompt is made of the words that `lavieid demo --help` lists, and a photo shows one of its people.
Real photos are read by the real face models, which are downloaded on first use (`pip install ".[face]"`).
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import CogVideoXPipeline
from PIL import Image

from lavieid_adapters import attach_lavieid
from lavieid_adapters.puppets import TEST_PEOPLE, draw_photos, load_pipeline, people
from lavieid_adapters.visualize.route_video import write_video


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hub id or folder of a CogVideoX pipeline; the drawn world's if not given")
    parser.add_argument("--adapters", help="Hub id or folder of adapters; those that the base brings if not given")
    person = parser.add_mutually_exclusive_group()
    person.add_argument("--image", help="photo of the person, a file or a URL; one of the drawn world if not given")
    person.add_argument("--identity", help="identity file, as `lavieid identity` writes it")
    parser.add_argument("--component-map", help="segmentation of the photo, in place of the parser's")
    parser.add_argument("--prompt", default="A person nods in a park, with a smile.", help="(%(default)s)")
    parser.add_argument("--frames", type=int, help="of the video; the model's own number if not given")
    parser.add_argument("--steps", type=int, default=8, help="of denoising (%(default)s; a real model takes 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs/lavieid.gif"), help=".gif or .mp4 (%(default)s)")
    args = parser.parse_args()
    if args.model and not (args.image or args.identity):
        parser.error("--model needs a person: give --image or --identity.")
    if args.identity and args.component_map:
        parser.error("--component-map goes with a photo, but --identity is read already: leave one of them out.")
    return args


def drawn_photo() -> np.ndarray:
    """Draw a photo (h, w, 3) of somebody whom the drawn world's models have not seen in training."""
    return draw_photos(people([TEST_PEOPLE[3]]), seeds=[0]).images[0].permute(1, 2, 0).numpy()


def save(video: np.ndarray, path: Path) -> None:
    """Save frames (f, h, w, 3), 0 to 1, as a GIF or an MP4."""
    frames = (video * 255).round().astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        first, *rest = [Image.fromarray(frame) for frame in frames]
        first.save(path, save_all=True, append_images=rest, duration=125, loop=0)
    else:
        write_video(frames, path)


def main() -> None:
    args = parse_args()
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    if args.model:
        pipe = CogVideoXPipeline.from_pretrained(args.model, dtype=dtype).to(device)
    else:
        pipe = load_pipeline(device, dtype)

    def generate(name: str) -> np.ndarray:
        begin = time.perf_counter()
        video = pipe(
            args.prompt, num_frames=args.frames, num_inference_steps=args.steps, output_type="np",
            max_sequence_length=pipe.transformer.config.max_text_seq_length,
            generator=torch.Generator().manual_seed(args.seed),
        ).frames[0]  # fmt: skip
        print(f"{name}: {len(video)} frames of {video.shape[2]}×{video.shape[1]}, {time.perf_counter() - begin:.1f} s")
        return video

    before = generate("before")
    lavieid = attach_lavieid(pipe, args.adapters)
    person = args.identity or lavieid.encode(args.image or drawn_photo(), component_map=args.component_map)
    lavieid.set_identity(person)
    print(person, lavieid, sep="\n")
    attached = generate("attached")
    lavieid.detach()
    after = generate("detached")

    save(np.concatenate([before, attached], axis=2), args.output)
    print(f"{args.output}: without LaVieID on the left, with it on the right")
    change = np.abs(attached - before).mean()
    print(f"mean change of a pixel while attached: {change:.4f}; after detaching: {np.abs(after - before).max():.1f}")
    if change == 0:
        raise SystemExit("The adapters changed nothing. Attach trained ones: --adapters.")


if __name__ == "__main__":
    main()
