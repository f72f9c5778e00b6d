"""What each pipeline does to its normalised latents before it has them decoded, from diffusers' code, by hand."""

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from lavieid_adapters.hosts.pipeline import HostPipeline
from lavieid_adapters.hosts.pipeline_table import find_pipeline

# Formula → what the names of its pipelines begin with; l latents, σ deviation, μ mean.
FORMULAS = {
    "l / factor": (
        "Allegro", "CogVideoX", "ConsisID", "EasyAnimate", "Hunyuan", "Kandinsky", "Latte",
    ),
    "l · σ / factor + μ": ("LTX", "Mochi", "SanaWM"),
    "l · σ / sigma_data + μ": ("Cosmos2Video", "CosmosTextToWorld", "CosmosVideoToWorld"),
    "l · σ + μ": (
        "AnyFlow", "ChronoEdit", "Cosmos2_5", "Helios", "LucyEdit", "Motif", "SanaImageToVideo", "SanaVideo",
        "SkyReelsV2", "Wan",
    ),
}  # fmt: skip


def scale_and_shift(pipe, frames: int) -> tuple[Tensor, Tensor]:
    """Those of a pipeline's formula, for latents (b, c, f, h, w) of so many frames; 0-dimensional if all are alike."""
    (formula,) = (key for key, names in FORMULAS.items() if type(pipe).__name__.startswith(names))
    vae = HostPipeline(pipe, find_pipeline(pipe)).decoders[0]
    if formula == "l / factor":
        return torch.tensor(1 / vae.config.scaling_factor), torch.tensor(0.0)
    source = vae if "latents_std" in dict(vae.named_buffers()) else vae.config
    if source.latents_std is None:  # Mochi's and Cosmos' may come without
        std, mean = torch.tensor(1.0), torch.tensor(0.0)
    else:
        channels = vae.config.get("latent_channels") or vae.config.z_dim
        statistics = (torch.as_tensor(values) for values in (source.latents_std, source.latents_mean))
        std, mean = (values.view(1, channels, -1, 1, 1)[:, :, :frames].float() for values in statistics)
    if "factor" in formula:
        std = std / vae.config.scaling_factor
    elif "sigma_data" in formula:
        std = std / pipe.scheduler.config.sigma_data
    return std, mean


@contextlib.contextmanager
def given_to_decoders(pipe) -> Iterator[list[Tensor]]:
    """Collect the latents of each call of what decodes, as it gets them, whatever is attached within the block."""
    given = []
    with contextlib.ExitStack() as put_back:
        for decoder in HostPipeline(pipe, find_pipeline(pipe)).decoders:
            put_back.callback(delattr, decoder, "decode")
            decoder.decode = _noted(decoder.decode, given)
        yield given


def _noted(decode, given: list[Tensor]):
    @functools.wraps(decode)
    def noted(latents, *args, **kwargs):
        given.append(latents.clone())
        return decode(latents, *args, **kwargs)

    return noted
