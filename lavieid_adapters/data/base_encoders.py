"""A base model's VAE and text encoder, at work on clips."""

# b batch · f frames · c channels of the latents · h w pixels or latents · n tokens of a prompt · d their width

import inspect
import json
import os

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from ..files.hub import fetch, hub_errors


def text_length(base: str | os.PathLike, **hub) -> int | None:
    """Return how many text tokens a base model's transformer takes, by its config; None if the config does not say."""
    path = fetch(base, ["transformer/config.json"], **hub) / "transformer" / "config.json"
    return json.loads(path.read_text(encoding="utf-8")).get("max_text_seq_length") if path.is_file() else None


class BaseEncoders:
    """The VAE and the text encoder of a base model, which turn clips and captions into its transformer's inputs.

    Args:
        base: Hub repo or folder of the pipeline, whose transformer is not loaded.
        max_sequence_length: Tokens of a prompt; the pipeline's own if None.
        dtype: Dtype in which they compute.
        device: Device on which they compute.
        tiling: Whether the VAE works by tiles: less memory, slightly other latents.
        hub: For a Hub repo: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        ValueError: If the base is no pipeline of one text encoder and a VAE for videos.
        OSError: If the base is not there, or a download fails.
    """

    def __init__(
        self,
        base: str | os.PathLike,
        max_sequence_length: int | None,
        dtype: torch.dtype,
        device: torch.device,
        tiling: bool = False,
        **hub,
    ):
        with hub_errors(str(base)):
            pipe = DiffusionPipeline.from_pretrained(base, transformer=None, dtype=dtype, **hub)
        if not hasattr(pipe, "encode_prompt") or getattr(pipe, "vae", None) is None:
            raise ValueError(
                f"'{base}' is a {type(pipe).__name__}, which lacks a VAE or encode_prompt. Use text-to-video."
            )
        self.pipe, self.device = pipe.to(device), device
        known = inspect.signature(pipe.encode_prompt).parameters
        given = {"num_videos_per_prompt": 1, "do_classifier_free_guidance": False, "device": device}
        if max_sequence_length is not None:
            given["max_sequence_length"] = max_sequence_length
        self._prompt_settings = {name: value for name, value in given.items() if name in known}
        if tiling:
            pipe.vae.enable_tiling()

    @torch.inference_mode()
    def encode_prompt(self, prompt: str) -> Tensor:
        """Return the embedding of a prompt, (n, d), on the CPU.

        Raises:
            ValueError: If the pipeline gives more than one.
        """
        given = self.pipe.encode_prompt(prompt=prompt, **self._prompt_settings)
        embeds = [value for value in given if isinstance(value, Tensor)]
        if len(embeds) != 1:
            raise ValueError(
                f"{type(self.pipe).__name__} describes a prompt by {len(embeds)} tensors, but shards hold one. Use a "
                "base such as CogVideoX or Wan."
            )
        return embeds[0][0].cpu()

    @torch.inference_mode()
    def encode_frames(self, frames: np.ndarray, seed: int) -> Tensor:
        """Return the normalised latents of a clip, (f, c, h, w), on the CPU.

        Args:
            frames: (f, h, w, 3), uint8, RGB.
            seed: Seed of the sample that is drawn from the VAE's distribution.
        """
        vae = self.pipe.vae
        pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].to(self.device)
        pixels = (pixels.float() / 127.5 - 1).to(vae.dtype)
        latents = vae.encode(pixels).latent_dist.sample(torch.Generator().manual_seed(seed))
        c = vae.config
        if c.get("latents_mean") is not None and c.get("latents_std") is not None:
            mean, std = (latents.new_tensor(v).view(1, -1, 1, 1, 1) for v in (c.latents_mean, c.latents_std))
            latents = (latents - mean) / std
        latents = (latents - (c.get("shift_factor") or 0)) * (c.get("scaling_factor") or 1)
        return latents[0].transpose(0, 1).contiguous().cpu()
