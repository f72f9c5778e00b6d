"""What TAM adds to a generated clip, beside the VAE's decoding, and how its time and memory grow with the clip.

    python benchmarks/tam_refine.py                 # one GPU of 40 GB or more; random weights, no download

bf16, 49 frames of 720×480 (13 latent frames of 60 × 90), all in one run, medians and 10th to 90th percentiles.
"""

import time

import torch
from diffusers import AutoencoderKLCogVideoX
from timing import machine, matmul_tflops, peak_gib, time_ms

from lavieid_adapters import TAM

BF16 = {"device": "cuda", "dtype": torch.bfloat16}


def flops(tam: TAM, frames: int = 13, tokens: int = 1350) -> float:
    """Floating-point operations of refining 13 latent frames in chunks of 4, 3, 3, 3."""
    dim, linear, attention = tam.config.dim, 0.0, 0.0
    for _ in range(3):  # chunks 2 to 4: three frames and the one before, after a chunk of four
        psi = tam.config.num_layers * 12 * dim**2
        linear += 2 * 4 * tokens * (psi + 4 * dim**2)
        attention += 4 * dim * tokens**2 * (tam.config.num_layers * (1 + 2 + 3 + 4) + 16)
    return linear + attention


def vae() -> AutoencoderKLCogVideoX:
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = AutoencoderKLCogVideoX(
            block_out_channels=(128, 256, 256, 512), latent_channels=16, layers_per_block=3,
            down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        )  # fmt: skip
    torch.set_default_dtype(torch.float32)
    return model.eval()


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    latents = torch.randn(1, 13, 16, 60, 90, **BF16)
    decoder, decode_input = vae(), latents.movedim(1, 2)
    decode = lambda decoder=decoder: decoder.decode(decode_input).sample  # noqa: E731
    decoding = time_ms(decode, repeats=5, warmup=2)
    print(f"{machine()}\n\n| | ms | 10 % to 90 % | of a decode | GiB | TFLOP | TFLOP/s |\n" + "| --- " * 7 + "|")
    print(f"| VAE decode | {decoding[0]:.0f} | {decoding[1]:.0f} to {decoding[2]:.0f} | | {peak_gib(decode):.2f} | | |")
    del decode, decoder
    tams = {}
    for preset in ("cogvideox-5b", "cogvideox-1024"):
        with torch.device("cuda"):
            tam = TAM.from_preset(preset)
        tams[preset] = tam = tam.to(torch.bfloat16).eval()
        torch.nn.init.normal_(tam.to_latents.weight, std=0.02)
        refine = lambda tam=tam: tam.refine(latents)  # noqa: E731
        for how, pause, repeats in (("back to back", 0.0, 50), ("every 0.3 s", 0.3, 20)):
            median, low, high = time_ms(refine, repeats=repeats, pause=pause)
            print(
                f"| TAM of dim {tam.config.dim}, {tam.num_parameters() / 1e6:.0f} M, {how} | {median:.1f} | {low:.1f} "
                f"to {high:.1f} | {median / decoding[0]:.2%} | {peak_gib(refine):.2f} | {flops(tam) / 1e12:.1f} | "
                f"{flops(tam) / median / 1e9:.0f} |"
            )
        begin = time.perf_counter()
        refine()
        print(f"<!-- the host takes {(time.perf_counter() - begin) * 1e3:.1f} ms to launch it -->")
        torch.cuda.synchronize()
    print(f"\nmatrix product 5400 × 3072 × 12288: {matmul_tflops(5400, 3072, 12288):.0f} TFLOP/s\n")
    print("| latent frames | dim | ms a frame | GiB above weights |\n| --- | --- | --- | --- |")
    for frames in (13, 52, 325, 1300):
        for tam in tams.values():

            def stream(tam: TAM = tam, frames: int = frames) -> None:
                chunk = torch.randn(1, 3, 16, 60, 90, **BF16)
                for _ in tam.stream(chunk[:, : min(3, frames - i)] for i in range(0, frames, 3)):
                    pass

            median = time_ms(stream, repeats=3 if frames < 1000 else 2, warmup=1)[0]
            print(f"| {frames} | {tam.config.dim} | {median / frames:.2f} | {peak_gib(stream):.2f} |")


if __name__ == "__main__":
    main()
