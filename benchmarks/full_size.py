"""CogVideoX-5B's pipeline at full size with random weights: before adapters are attached, with them, and without again.

    python benchmarks/full_size.py

49 frames of 720×480, guidance 6, tiled decoding, on a GPU; the text encoder is a small one. Fresh adapters change
nothing, so their last layers are perturbed here to make the effect visible.
"""

import argparse
import time

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from timing import machine
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from lavieid_adapters import TAM, LocalFacialEncoder, LocalRouter, attach_lavieid

PROMPT = "She walks through a park in autumn."


def full_size_pipeline() -> CogVideoXPipeline:
    """Build CogVideoX-5B's classes at their sizes with random weights, on the GPU."""
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
    pipe = CogVideoXPipeline(**components, tokenizer=_tokenizer(), scheduler=CogVideoXDDIMScheduler())
    pipe.vae.enable_tiling()
    return pipe


def _tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "</s>", "<unk>", *sorted(set(PROMPT.lower().replace(".", " .").split()))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=226
    )


def perturbed_adapters() -> dict:
    """Build adapters of the paper's sizes in bf16 on the GPU, which act."""
    with torch.device("cuda"):
        adapters = {"router": LocalRouter(), "encoder": LocalFacialEncoder(), "tam": TAM()}
        torch.nn.init.normal_(adapters["router"].cross_attention.to_out.weight, std=0.02)
        torch.nn.init.normal_(adapters["tam"].to_latents.weight, std=0.02)
    return {name: adapter.to(torch.bfloat16).eval() for name, adapter in adapters.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="of denoising (%(default)s)")
    args = parser.parse_args()
    pipe = full_size_pipeline()
    print(f"{machine()}\n\n| | s | peak GiB |\n| --- | --- | --- |")

    def generate(name: str) -> np.ndarray:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        frames = pipe(
            PROMPT, num_inference_steps=args.steps, guidance_scale=6.0, output_type="np",
            generator=torch.Generator().manual_seed(42),
        ).frames[0]  # fmt: skip
        seconds, peak = time.perf_counter() - begin, torch.cuda.max_memory_allocated() / 2**30
        print(f"| {name} | {seconds:.1f} | {peak:.1f} |", flush=True)
        return frames

    before = generate("before attaching")
    adapters = perturbed_adapters()
    begin = time.perf_counter()
    lavieid = attach_lavieid(pipe, adapters)
    attached_in = time.perf_counter() - begin
    c, like = lavieid.encoder.config, {"device": "cuda", "dtype": torch.bfloat16}
    features = [torch.randn(1, 6, 9, c.vit_dim, **like) for _ in range(c.num_scales)]
    lavieid.set_identity(lavieid.encoder.encode(torch.randn(1, c.id_dim, **like), features))
    attached = generate("attached")
    begin = time.perf_counter()
    lavieid.detach()
    detached_in = time.perf_counter() - begin
    after = generate("after detaching")
    print(f"\nattached in {attached_in * 1e3:.1f} ms, detached in {detached_in * 1e3:.1f} ms")
    print(f"mean change of a pixel while attached: {np.abs(attached - before).mean():.4f}; ", end="")
    print(f"largest after detaching: {np.abs(after - before).max()}")


if __name__ == "__main__":
    main()
