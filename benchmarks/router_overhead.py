"""What the local router adds to a denoising step of CogVideoX-5B, beside the literal formula and ConsisID's injection.

    python benchmarks/router_overhead.py            # one GPU of 40 GB or more; random weights, no download

bf16, batch 2 (guidance), 13 × 30 × 45 = 17,550 video tokens, all in one run, medians and 10th to 90th percentiles.
"""

import time

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.transformers.consisid_transformer_3d import LocalFacialExtractor, PerceiverCrossAttention
from timing import copy_tb_s, machine, matmul_tflops, peak_gib, time_ms

from lavieid_adapters import LocalRouter, attach
from lavieid_adapters.models import kernels

BATCH, TOKENS, DIM, INNER = 2, 17550, 3072, 2048
BF16 = {"device": "cuda", "dtype": torch.bfloat16}


def transformer_5b() -> CogVideoXTransformer3DModel:
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = CogVideoXTransformer3DModel(
            num_attention_heads=48, num_layers=42, use_rotary_positional_embeddings=True
        )
    torch.set_default_dtype(torch.float32)
    return model.eval().requires_grad_(False)


def literal(router: LocalRouter, z: torch.Tensor, component_tokens: torch.Tensor) -> torch.Tensor:
    """Eqs. 2 and 3 component by component, in the order in which they are printed."""
    z_norm, logits, out = router.norm_video(z), [], 0
    for m in range(component_tokens.shape[1]):
        tokens = router.norm_component(component_tokens[:, m])
        logits.append(router.aggregate[m : m + 1] @ (router.to_component(tokens) @ router.to_video(z_norm).mT))
    weights = torch.cat(logits, dim=1).softmax(dim=1)
    for m in range(component_tokens.shape[1]):
        phi = router.cross_attention(z, component_tokens[:, m])
        out = out + weights[:, m, :, None] * phi
    return z + out


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    rows: list[tuple[str, tuple[float, float, float], float]] = []
    model = transformer_5b()
    angles = torch.randn(TOKENS, 64, device="cuda")
    inputs = {
        "hidden_states": torch.randn(BATCH, 13, 16, 60, 90, **BF16),
        "encoder_hidden_states": torch.randn(BATCH, 226, 4096, **BF16),
        "timestep": torch.full((BATCH,), 500, device="cuda"),
        "image_rotary_emb": (angles.cos(), angles.sin()),
        "return_dict": False,
    }
    z = torch.randn(BATCH, TOKENS, DIM, **BF16) * 2 + 0.5
    component_tokens = torch.randn(1, 6, 32, 2048, **BF16)
    router = LocalRouter.from_preset("cogvideox-5b").to("cuda", torch.bfloat16).eval().requires_grad_(False)
    torch.nn.init.normal_(router.cross_attention.to_out.weight, std=0.02)

    begin = time.perf_counter()
    handle = attach(router, model)
    attached_ms = (time.perf_counter() - begin) * 1e3
    handle.set_tokens(component_tokens)
    set_ms = []
    for _ in range(5):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        handle.set_tokens(component_tokens)
        torch.cuda.synchronize()
        set_ms.append((time.perf_counter() - begin) * 1e3)
    step = lambda: model(**inputs)  # noqa: E731
    step_with, memory_with = time_ms(step, repeats=5, warmup=2), peak_gib(step)
    handle.scale = 1e-3  # it writes over z, which must stay as it is over many repeats
    steer = lambda: handle.steer(z)  # noqa: E731
    # As in a step, in which the card comes from a block and not from the router before.
    text, emb = torch.randn(BATCH, 226, DIM, **BF16), torch.randn(BATCH, 512, **BF16)
    block = lambda: model.transformer_blocks[1](z, text, emb, inputs["image_rotary_emb"])  # noqa: E731
    rows.append(("**router, after a block**", time_ms(steer, before=block), peak_gib(steer)))
    rows.append(("router, back to back", time_ms(steer), peak_gib(steer)))
    begin = time.perf_counter()
    handle.detach()
    detached_ms = (time.perf_counter() - begin) * 1e3
    step_without, memory_without = time_ms(step, repeats=5, warmup=1), peak_gib(step)

    folded = router.fold(component_tokens)
    out_of_place = lambda: router.apply_folded(z, folded)  # noqa: E731
    rows.append(("router, not in place", time_ms(out_of_place), peak_gib(out_of_place)))
    usable, kernels.usable = kernels.usable, lambda *_: False
    rows.append(("reassociated, plain PyTorch", time_ms(out_of_place), peak_gib(out_of_place)))
    compiled = torch.compile(out_of_place)
    rows.append(("reassociated, torch.compile", time_ms(compiled), peak_gib(compiled)))
    kernels.usable = usable
    tokens_of_batch = component_tokens.expand(BATCH, -1, -1, -1)
    printed = lambda: literal(router, z, tokens_of_batch)  # noqa: E731
    rows.append(("literal formula", time_ms(printed, repeats=20), peak_gib(printed)))

    extractor = LocalFacialExtractor().to(**BF16)
    attentions = [PerceiverCrossAttention().to(**BF16) for _ in range(21)]
    id_cond, id_vit = torch.randn(1, 1280, **BF16), [torch.randn(1, 577, 1024, **BF16) for _ in range(5)]

    def consisid() -> torch.Tensor:
        face, stream = extractor(id_cond, id_vit).expand(BATCH, -1, -1), z
        for attention in attentions:
            stream = stream + 1.0 * attention(face, stream)
        return stream

    rows.append(("ConsisID's injection", time_ms(consisid, repeats=20), peak_gib(consisid)))

    rate, bandwidth = matmul_tflops(BATCH * TOKENS, DIM, INNER), copy_tb_s()
    projections = 2 * 2 * BATCH * TOKENS * DIM * INNER / rate / 1e9
    # The stream is read and written once, queries are written and read, and so are what comes of them.
    traffic = (2 * DIM + 4 * INNER) * BATCH * TOKENS * 2 / bandwidth / 1e9
    print(f"{machine()}\nmatrix product of the first projection {rate:.0f} TFLOP/s, copy {bandwidth:.2f} TB/s\n")
    print("| | ms | 10 % to 90 % | of a step | GiB |\n| --- | --- | --- | --- | --- |")
    for name, (median, low, high), memory in [
        ("CogVideoX-5B transformer", step_without, memory_without),
        ("CogVideoX-5B transformer with the router", step_with, memory_with),
        *rows,
    ]:
        share = f"{median / step_without[0]:.2%}"
        print(f"| {name} | {median:.2f} | {low:.2f} to {high:.2f} | {share} | {memory:.2f} |")
    print(f"| two projections at the measured rate | {projections:.2f} | | {projections / step_without[0]:.2%} | |")
    print(f"| traffic that no fusion spares, at the measured bandwidth | {traffic:.2f} | | | |")
    print(
        f"\nattach {attached_ms:.1f} ms, detach {detached_ms:.1f} ms, set_tokens {min(set_ms):.1f} to "
        f"{max(set_ms):.1f} ms; memory of a step {memory_with - memory_without:+.3f} GiB with the router, whose "
        f"weights and folded form are {(router.num_parameters() + 2 * DIM * INNER) * 2 / 2**30:.2f} GiB"
    )


if __name__ == "__main__":
    main()
