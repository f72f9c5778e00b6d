"""Real classes at tiny sizes with seeded random weights, for all tests."""

import diffusers
import torch
from support.small_cogvideox import small_components
from torch import Tensor, nn

from lavieid_adapters import TAM, LocalFacialEncoder, LocalRouter

DIM, TOKEN_DIM, LENGTH = 64, 32, 8
LATENT_CHANNELS = 4


def randomise(module: torch.nn.Module, seed: int = 0, std: float = 0.3) -> torch.nn.Module:
    """Give every parameter a random value, so that none is zero or one by initialisation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(std=std, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return module


def untrained_router(**config) -> LocalRouter:
    """A router that changes nothing."""
    sizes = {"dim": DIM, "token_dim": TOKEN_DIM, "inner_dim": 64, "num_heads": 2, "tokens_per_component": LENGTH}
    return LocalRouter(**{**sizes, **config}).eval()


def router(seed: int = 0, **config) -> LocalRouter:
    """A router that acts."""
    return randomise(untrained_router(**config), seed, std=0.2)


def untrained_tam(**config) -> TAM:
    """A TAM that changes nothing."""
    sizes = {"latent_channels": LATENT_CHANNELS, "dim": 64, "num_layers": 2, "num_heads": 2}
    return TAM(**{**sizes, **config}).eval()


def tam(seed: int = 0, **config) -> TAM:
    """A TAM that acts."""
    return randomise(untrained_tam(**config), seed, std=0.1)


def encoder(seed: int = 0, **config) -> LocalFacialEncoder:
    sizes = {"id_dim": 24, "vit_dim": 16, "depth": 5, "head_dim": 8, "num_heads": 2}
    shared = {"tokens_per_component": LENGTH, "token_dim": TOKEN_DIM}
    return randomise(LocalFacialEncoder(**{**sizes, **shared, **config}), seed).eval()


def features(model: LocalFacialEncoder, batch: int = 1, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """What `LocalFacialEncoder.forward` takes."""
    c, generator = model.config, torch.Generator().manual_seed(seed)
    maps = [torch.randn(batch, 6, 5, c.vit_dim, generator=generator) for _ in range(c.num_scales)]
    return torch.randn(batch, c.id_dim, generator=generator), maps


def tokens(*batch: int, seed: int = 0) -> Tensor:
    """Component tokens that fit `router()`."""
    return torch.randn(*batch, 6, LENGTH, TOKEN_DIM, generator=torch.Generator().manual_seed(seed))


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Normal random numbers, always the same for a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def latents(*shape: int, seed: int = 0) -> Tensor:
    """(b, f, c, h, w) latents that fit `tam()`."""
    return noise(*(shape or (1, 13, LATENT_CHANNELS, 8, 12)), seed=seed)


def transformer(**config) -> torch.nn.Module:
    """A CogVideoX transformer of width DIM."""
    return small_components(**config)["transformer"]


def transformer_inputs(batch: int = 1, seed: int = 0, channels: int = LATENT_CHANNELS) -> dict:
    """Keywords for a forward of `transformer(use_rotary_positional_embeddings=False)`, of 3 × 4 × 6 video tokens."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(batch, 3, channels, 8, 12, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 16, 32, generator=generator),
        "timestep": torch.full((batch,), 500),
    }


def wan() -> nn.Module:
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=4, text_dim=32,
        freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=32,
    ).eval()  # fmt: skip


NO_GRID = {"use_rotary_positional_embeddings": False, "sample_height": 8, "sample_width": 12, "sample_frames": 9}


@torch.no_grad()
def run(model, batch=1, **changes):
    return model(**{**transformer_inputs(batch), **changes}).sample
