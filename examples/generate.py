"""Generate one video without, with and again without LaVieID, and check that the adapters leave no trace.

    # a small CogVideoX built here, on the CPU: seconds, no download
    python examples/generate.py
    python examples/generate.py --image photo.jpg --prompt "She walks through a park in autumn."

    # the real thing
    python examples/generate.py --model zai-org/CogVideoX-5b --adapters me/lavieid-cogvideox-5b --image photo.jpg \\
        --prompt "She walks through a park in autumn." --steps 50 --output park.mp4

    # CogVideoX-5B's classes and sizes with random weights, on a GPU
    python examples/generate.py --full-size

The small and the full-size model have random weights: their pictures are noise, but every part of the way is the real
one. Fresh adapters change nothing, so their last layers are perturbed here to make the effect visible. The small model
takes the whole photo as the face, of which nothing but a pair of small models of its own is asked; with --model the
photo goes through the real face models, which are downloaded on first use.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from lavieid_adapters import (
    FACIAL_COMPONENTS,
    TAM,
    FaceProcessor,
    IdentityReader,
    LocalFacialEncoder,
    LocalRouter,
    attach_lavieid,
)
from lavieid_adapters.extras import require

PROMPT = "She walks through a park in autumn."


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of the prompt's words: T5's own would have to be downloaded."""
    words = ["<pad>", "</s>", "<unk>", *sorted(set(PROMPT.lower().replace(".", " .").split()))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=226
    )


def small_components(**transformer) -> dict:
    """The components of a CogVideoX pipeline of a few hundred thousand random weights; keywords go to the
    transformer."""
    torch.manual_seed(0)
    text = T5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    config = {
        "num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 4, "out_channels": 4, "time_embed_dim": 16,
        "text_embed_dim": 32, "num_layers": 3, "sample_width": 24, "sample_height": 16, "sample_frames": 17,
        "max_text_seq_length": 16, "use_rotary_positional_embeddings": True,
    }  # fmt: skip
    return {
        "tokenizer": word_tokenizer(),
        "text_encoder": T5EncoderModel(text).eval(),
        "vae": AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
            down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
            sample_width=192, sample_height=128,
        ).eval(),
        "transformer": CogVideoXTransformer3DModel(**{**config, **transformer}).eval(),
        "scheduler": CogVideoXDDIMScheduler(),
    }  # fmt: skip


def full_size_pipeline() -> CogVideoXPipeline:
    """CogVideoX-5B's classes at their full sizes with random weights, on the GPU. Its text encoder is a small one."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        components = {
            "text_encoder": T5EncoderModel(
                T5Config(vocab_size=32, d_model=4096, d_kv=64, d_ff=64, num_layers=1)
            ).eval(),
            "vae": AutoencoderKLCogVideoX(
                block_out_channels=(128, 256, 256, 512), latent_channels=16, layers_per_block=3,
                down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
                scaling_factor=0.7,
            ).eval(),
            "transformer": CogVideoXTransformer3DModel(
                num_attention_heads=48, num_layers=42, use_rotary_positional_embeddings=True
            ).eval(),
        }  # fmt: skip
    torch.set_default_dtype(torch.float32)
    pipe = CogVideoXPipeline(**components, tokenizer=word_tokenizer(), scheduler=CogVideoXDDIMScheduler())
    pipe.vae.enable_tiling()
    return pipe


def adapters_for(pipe: CogVideoXPipeline) -> dict:
    """Fresh adapters of the pipe's sizes whose last layers are perturbed, so that they act."""
    transformer = pipe.transformer
    with torch.device(transformer.device):
        if transformer.config.num_layers == 42:
            adapters = {"router": LocalRouter(), "encoder": LocalFacialEncoder(), "tam": TAM()}
        else:
            small = {"token_dim": 32, "tokens_per_component": 8}
            adapters = {
                "router": LocalRouter(dim=64, inner_dim=64, num_heads=2, **small),
                "encoder": LocalFacialEncoder(id_dim=520, vit_dim=16, depth=5, head_dim=8, num_heads=2, **small),
                "tam": TAM(latent_channels=4, dim=64, num_layers=2, num_heads=2),
            }
        torch.nn.init.normal_(adapters["router"].cross_attention.to_out.weight, std=0.02)
        torch.nn.init.normal_(adapters["tam"].to_latents.weight, std=0.02)
    return {name: adapter.to(transformer.dtype).eval() for name, adapter in adapters.items()}


class Pixels:
    """Stands for a recognizer and a parser that have weights: any object with the one method will do."""

    def embed(self, image: np.ndarray, landmarks) -> np.ndarray:
        """512 of the image's brightnesses for an identity embedding."""
        return np.asarray(Image.fromarray(image).convert("L").resize((32, 16)), np.float32).ravel() / 255

    def parse(self, aligned: np.ndarray) -> np.ndarray:
        """Where the facial components of a face from the front are, whatever the picture shows."""
        component_map = Image.new("L", (512, 512))
        draw = ImageDraw.Draw(component_map)
        for component, box in (
            ("hair", (60, 0, 452, 400)), ("skin", (110, 110, 402, 500)), ("nose", (220, 230, 292, 330)),
            ("mouth", (195, 350, 317, 400)), ("eyes", (165, 225, 222, 255)), ("eyes", (290, 225, 347, 255)),
            ("eyebrows", (155, 195, 230, 212)), ("eyebrows", (282, 195, 357, 212)),
        ):  # fmt: skip
            draw.ellipse(box, fill=1 + FACIAL_COMPONENTS.index(component))
        return np.asarray(component_map)


def small_vision(folder: str | Path, width: int = 16) -> Path:
    """A ViT of a few thousand random weights as a folder, with embeddings of half its width."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=6, num_attention_heads=2, image_size=56,
        patch_size=14, projection_dim=width // 2,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    processor = {"image_processor_type": "CLIPImageProcessor", "crop_size": 56, "size": {"shortest_edge": 56}}
    Path(folder, "preprocessor_config.json").write_text(json.dumps(processor))
    return Path(folder)


def small_faces(encoder: LocalFacialEncoder, folder: str) -> FaceProcessor:
    """Reads photos without a download: no detector, and a small ViT that is saved to `folder`."""
    parts = {"detectors": (), "recognizer": Pixels(), "parser": Pixels()}
    return FaceProcessor.for_encoder(encoder, vision_model=small_vision(folder), **parts)


def random_identity(encoder: LocalFacialEncoder):
    """An identity of random features, for a run without a photo."""
    c, like = encoder.config, {"device": encoder.device, "dtype": encoder.dtype}
    features = [torch.randn(1, 6, 9, c.vit_dim, **like) for _ in range(c.num_scales)]
    return encoder.encode(torch.randn(1, c.id_dim, **like), features)


def save_video(frames: np.ndarray, path: Path) -> None:
    """Frames (f, h, w, 3) in 0 to 1 as a GIF, or by imageio as whatever else the suffix says."""
    frames = (np.clip(frames, 0, 1) * 255).round().astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        first, *rest = [Image.fromarray(frame) for frame in frames]
        first.save(path, save_all=True, append_images=rest, duration=125, loop=0)
    else:
        require("imageio", "app").mimsave(path, frames, fps=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hub id or folder of a CogVideoX pipeline")
    parser.add_argument("--full-size", action="store_true", help="CogVideoX-5B's sizes with random weights, on a GPU")
    parser.add_argument("--adapters", help="Hub id or folder of LaVieID adapters")
    person = parser.add_mutually_exclusive_group()
    person.add_argument("--image", help="a photo of the person: a file or a URL")
    person.add_argument("--identity", help="an Identity file (.safetensors)")
    parser.add_argument("--component-map", help="a segmentation of the photo, if no parser is to make it")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--frames", type=int, help="the model's own number if not given")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps (default: %(default)s; a real model: 50)")
    parser.add_argument("--output", type=Path, default=Path("outputs/lavieid.gif"), help="default: %(default)s")
    args = parser.parse_args()

    if args.model:
        pipe = CogVideoXPipeline.from_pretrained(args.model, torch_dtype=torch.bfloat16)
        pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    elif args.full_size:
        pipe = full_size_pipeline()
    else:
        pipe = CogVideoXPipeline(**small_components())
    pipe.set_progress_bar_config(desc="denoising")
    length = 16 if not (args.model or args.full_size) else pipe.transformer.config.max_text_seq_length

    def generate(name: str) -> np.ndarray:
        torch.cuda.synchronize() if torch.cuda.is_available() else None
        begin = time.perf_counter()
        frames = pipe(
            args.prompt,
            num_frames=args.frames,
            num_inference_steps=args.steps,
            guidance_scale=6.0,
            max_sequence_length=length,
            generator=torch.Generator().manual_seed(42),
            output_type="np",
        ).frames[0]
        peak = f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if torch.cuda.is_available() else ""
        print(f"{name:>9}: {len(frames)} frames of {frames.shape[2]}×{frames.shape[1]}, "
              f"{time.perf_counter() - begin:.1f} s{peak}")  # fmt: skip
        return frames

    before = generate("before")
    adapters = args.adapters or adapters_for(pipe)
    begin = time.perf_counter()
    lavieid = attach_lavieid(pipe, adapters)
    attached_in = time.perf_counter() - begin
    if args.image:
        if not (args.model or args.full_size):
            with tempfile.TemporaryDirectory() as models:
                print("The small model finds no faces: the whole picture is taken as one.")
                lavieid.reader = IdentityReader(lavieid.encoder, small_faces(lavieid.encoder, models))
                identity = lavieid.encode(args.image, on_no_face="whole_image", component_map=args.component_map)
        else:
            identity = lavieid.encode(args.image, component_map=args.component_map)
        print(identity)
    else:
        identity = args.identity or random_identity(lavieid.encoder)
    lavieid.set_identity(identity)
    print(lavieid)
    during = generate("attached")
    begin = time.perf_counter()
    lavieid.detach()
    detached_in = time.perf_counter() - begin
    after = generate("detached")

    save_video(during, args.output)
    change = np.abs(during - before).mean()
    print(f"attached in {attached_in * 1e3:.1f} ms, detached in {detached_in * 1e3:.1f} ms; video in {args.output}")
    print(f"mean change of a pixel while attached: {change:.4f}; after detaching: {np.abs(after - before).max():.1f}")
    if change == 0:
        raise SystemExit("The adapters changed nothing: are they trained, and is an identity set?")
    if not np.array_equal(before, after):
        raise SystemExit("The pipeline is not what it was before the adapters were attached.")


if __name__ == "__main__":
    main()
