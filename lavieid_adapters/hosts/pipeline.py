"""The description of a pipeline, and a pipeline seen through it: guidance, progress of the run, latents, decoders.

`pipeline_table.py` holds the descriptions of the pipelines of diffusers. `host.py` describes transformers.
"""

# b batch · c channels · f frames · h w height and width

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .host import Arguments, weights_device, whole_number


def noted_timesteps(pipe) -> Tensor | None:
    """Return the timesteps of a run by the number of them that the pipe notes: the scheduler's last ones.

    A video-to-video run skips the first ones. There is no number before the first run.
    """
    count = getattr(pipe, "_num_timesteps", None)
    return None if count is None else pipe.scheduler.timesteps[-count:]


def guided_passes(pipe) -> int | None:
    """Return 2 for a pipe that guides in this run and 1 for one that does not, None if it does not tell."""
    guided = getattr(pipe, "do_classifier_free_guidance", None)
    if guided is None:  # CogVideoX and Allegro tell the scale alone, which CogVideoX's dynamic guidance sets to 1
        guided = getattr(pipe, "_guidance_scale", 1) > 1 or None
    return None if guided is None else 1 + guided


@dataclass(frozen=True)
class VideoPipeline:
    """Description of a pipeline that makes videos with a host.

    Attributes:
        host: Class name of its transformer, by which tables sort pipelines; needed for nothing else.
        passes: Guidance passes in the batch of a forward: 1 if each pass is a call of its own, 2 for [negative,
            positive] where the pipe guides, or a function of the pipe and the forward's arguments, None if not known.
        seam: Method of the pipe whose first argument is the normalised latents of a whole video; TAM refines them
            there. "vae.decode" is the method `decode` of each of `decoders`, which gets denormalised latents.
        layout: Order of the latents' axes there, "bcfhw" or "bfchw".
        output: Order of the axes of what `output_type="latent"` gives, or a modular pipeline's `output="latents"`.
        denormalised: Whether that output is what the VAE decodes, instead of normalised latents.
        unrefined: Reason why TAM cannot refine that output, after "Latents of ...Pipeline"; None if it can.
        divisor: Function from the pipe to the number by which latents are divided, besides the VAE's mean and
            deviation; None for the VAE's `scaling_factor`.
        latent_channels: Channels of the latents; None for what the VAE's config says.
        run: Function from the pipe to the timesteps of its run, first step first, None if they do not tell progress.
        current: Function from the pipe's `_current_timestep` to the scheduler's timestep.
        units: Function from the scheduler's timesteps to those that the transformer gets.
        transformers: Attributes of the pipe that hold its transformers, of which one runs at each step.
        decoders: Attributes of the pipe that may decode its latents; all have the same statistics.

    Raises:
        TypeError: If an attribute is of another type.
        ValueError: If an attribute has another value than these.
    """

    host: str | None = None
    passes: int | Callable[[Any, Arguments], int | None] = 1
    seam: str = "vae.decode"
    layout: str = "bcfhw"
    output: str = "bcfhw"
    denormalised: bool = False
    unrefined: str | None = None
    divisor: Callable[[Any], float] | None = None
    latent_channels: int | None = None
    run: Callable[[Any], Tensor | None] = noted_timesteps
    current: Callable[[Tensor], Tensor] = torch.Tensor.float
    units: Callable[[Tensor], Tensor] = torch.Tensor.float
    transformers: tuple[str, ...] = ("transformer", "transformer_2")
    decoders: tuple[str, ...] = ("vae", "diffusion_decoder")

    def __post_init__(self):
        if not callable(self.passes) and self.passes not in (1, 2):
            raise ValueError(f"passes is {self.passes!r}, but must be 1, 2 or a function.")
        if self.layout not in ("bcfhw", "bfchw"):
            raise ValueError(f"layout is {self.layout!r}, but must be 'bcfhw' or 'bfchw'.")
        if sorted(self.output) != sorted("bcfhw"):
            raise ValueError(f"output is {self.output!r}, but must be an order of the axes b, c, f, h and w.")
        for name in ("transformers", "decoders"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(attribute, str) for attribute in value):
                raise ValueError(f"{name} is {value!r}, but must be a tuple of names of attributes.")
        if not self.transformers:
            raise ValueError("transformers is (), but must name one attribute at least. Leave it out for diffusers'.")
        for name in ("seam", "host", "unrefined"):
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name == "seam"):
                raise TypeError(f"{name} is {value!r}, but must be text. Give it in quotes, or leave it out.")
        for name in ("divisor", "run", "current", "units"):
            value = getattr(self, name)
            if not callable(value) and (value is not None or name != "divisor"):
                raise TypeError(f"{name} is {value!r}, but must be a function. Give one, or leave it out.")
        if not isinstance(self.denormalised, bool):
            raise TypeError(f"denormalised is {self.denormalised!r}, but must be a truth value. Give True or False.")
        if self.latent_channels is not None and whole_number("latent_channels", self.latent_channels) < 1:
            raise ValueError(f"latent_channels is {self.latent_channels}, but must be at least 1. Give the VAE's.")


class HostPipeline:
    """A pipeline, seen through its description.

    Args:
        pipe: The pipeline.
        description: Its description.
    """

    def __init__(self, pipe, description: VideoPipeline):
        self.pipe, self.description = pipe, description

    @property
    def name(self) -> str:
        """Name of the pipeline's class."""
        return type(self.pipe).__name__

    @property
    def source(self) -> str | None:
        """Folder or Hub repo that the pipeline was loaded from; None if it was built."""
        source = getattr(self.pipe, "config", {}).get("_name_or_path")
        source = source or getattr(self.pipe, "_pretrained_model_name_or_path", None)  # of a modular one
        return os.fspath(source) if source else None

    @property
    def base_model(self) -> str | None:
        """Name of the base model: the pipeline's source, or that of its transformer."""
        return self.source or getattr(getattr(self.transformers[0], "config", None), "_name_or_path", None) or None

    @property
    def device(self) -> torch.device:
        """Device on which the pipeline computes, though its models may be offloaded."""
        device = getattr(self.pipe, "_execution_device", None)
        return device or weights_device(self.transformers[0]) or torch.device("cpu")

    @property
    def transformers(self) -> list[nn.Module]:
        """The transformers, of which one runs at each step: Wan 2.2 has two, and either may be left out.

        Raises:
            ValueError: If there is none.
        """
        if not (found := self._loaded(self.description.transformers)):
            raise ValueError(f"This {self.name} has no transformer. Load one before you attach adapters.")
        return found

    @property
    def decoders(self) -> list[nn.Module]:
        """The models that may decode latents: the VAE, the diffusion decoder of LTX-2, both, or none."""
        return self._loaded(self.description.decoders)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents.

        Raises:
            ValueError: If there is nothing that decodes them, or if it does not say.
        """
        if not (decoders := self.decoders):
            raise ValueError(f"This {self.name} has no VAE, which TAM needs. Load one, or attach a router alone.")
        config = getattr(decoders[0], "config", {})
        channels = self.description.latent_channels or config.get("latent_channels") or config.get("z_dim")
        if channels is None:
            raise ValueError(
                f"The config of {type(decoders[0]).__name__} has neither latent_channels nor z_dim. Give "
                "VideoPipeline(..., latent_channels=)."
            )
        return channels

    def need_attached(self, blocks: Collection[nn.Module]) -> None:
        """Check that each of the transformers, wrapped or not, has one of the blocks that routers follow.

        Raises:
            ValueError: If one has not, because it came after the routers.
        """
        for transformer in self.transformers:
            if not any(module is block for module in transformer.modules() for block in blocks):
                raise ValueError(
                    f"This {self.name} got a {type(transformer).__name__} after adapters were attached, so that it has "
                    "no router. Detach them, and attach them again."
                )

    def need_refined(self, decoders: Collection[nn.Module]) -> None:
        """Check that what may decode latents is among the decoders for which TAM refines.

        Raises:
            ValueError: If something else decodes, because it came after TAM.
        """
        for decoder in self.decoders:
            if not any(decoder is known for known in decoders):
                raise ValueError(
                    f"This {self.name} got another {type(decoder).__name__} after adapters were attached, so that TAM "
                    "would not refine what it decodes. Detach them, and attach them again."
                )

    @property
    def running(self) -> bool:
        """Whether a forward is of a run of this pipeline, as far as it or its scheduler notes that.

        Other pipelines may share its transformer.
        """
        if getattr(self.pipe, "_current_timestep", True) is None:
            return False
        if torch.compiler.is_compiling():  # a number would be compiled into the graph of a forward
            return True
        scheduler = getattr(self.pipe, "scheduler", None)
        index = getattr(scheduler, "step_index", None)
        return index is None or index < len(scheduler.timesteps)

    def passes(self, arguments: Arguments) -> int | None:
        """Return the guidance passes in the batch of a forward with these arguments, None if they are not known."""
        passes = self.description.passes
        if not self.running:
            return None
        if callable(passes):
            return passes(self.pipe, arguments)
        return 1 if passes == 1 else guided_passes(self.pipe)

    def progress(self, timestep: Tensor) -> Tensor | None:
        """Return the fraction of the run that is behind, (1,), without a number being read off the device.

        It is the place in the run of the pipe's own timestep. If the pipe notes none, it is that of the transformer's
        timestep, which may be rounded: the run is rounded alike, and its nearest timestep counts.

        Args:
            timestep: The transformer's timesteps, (b,).
        """
        run = self.description.run(self.pipe) if self.running else None
        if run is None:
            return None
        now = getattr(self.pipe, "_current_timestep", None)
        if isinstance(now, Tensor):
            run, now = run.float(), self.description.current(now).amax()
        else:  # a number would be compiled into the graph of a forward
            run, now = self.description.units(run).to(timestep.dtype).float(), timestep[0].float()
        return ((run - now.to(run.device)).abs().argmin() / len(run)).reshape(1)

    def moments(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and shift of what the VAE decodes: normalised latents · scale + shift.

        Args:
            latents: (b, c, f, h, w); scale and shift broadcast to it, in float32.
        """
        vae, (channels, frames) = self.decoders[0], latents.shape[1:3]
        config, buffers = getattr(vae, "config", {}), dict(vae.named_buffers(recurse=False))
        values = []
        for name, neutral in (("latents_std", 1.0), ("latents_mean", 0.0)):
            value = config.get(name)
            value = buffers.get(name) if value is None else value
            value = torch.as_tensor(neutral if value is None else value, dtype=torch.float32, device=latents.device)
            # Cosmos 1 has statistics of each channel and frame, the others of each channel.
            values.append(value.view(1, 1 if value.numel() == 1 else channels, -1, 1, 1)[:, :, :frames])
        divisor = self.description.divisor
        return values[0] / (divisor(self.pipe) if divisor else config.get("scaling_factor") or 1.0), values[1]

    def refine_denormalised(self, latents: Tensor, refine: Callable[[Tensor], Tensor]) -> Tensor:
        """Refine what the VAE would decode, (b, c, f, h, w), in the normalised space.

        The result is the same bit for bit if `refine` changes nothing.
        """
        scale, shift = self.moments(latents)
        normalised = ((latents.float() - shift) / scale).to(latents.dtype)
        change = refine(normalised).float() - normalised.float()
        return latents + (scale * change).to(latents.dtype)

    def _loaded(self, names: tuple[str, ...]) -> list[nn.Module]:
        models = (getattr(self.pipe, name, None) for name in names)  # None in a modular pipeline that has not loaded it
        return list(dict.fromkeys(model for model in models if model is not None))
