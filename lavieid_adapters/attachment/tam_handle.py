"""TAM on a pipeline: latents are refined just before the VAE decodes them, or on request."""

# b batch · c channels · f frames · h w height and width

import contextlib
import functools
import inspect
import uuid
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..hosts.pipeline import HostPipeline
from ..models.checks import finite, size, switch
from ..models.tam import LAYOUTS, TAM
from .handle import Handle


class TAMHandle(Handle):
    """A TAM that is attached to a pipeline, with its settings; made by `attach_lavieid`.

    Args:
        tam: TAM, which gives the settings their first values.
        pipeline: The pipeline.
        notices: Warnings that are given, once, when TAM first acts; the list may be shared.

    Raises:
        ValueError: If TAM is not of the pipeline's latent channels. The pipeline is untouched then.
    """

    def __init__(self, tam: TAM, pipeline: HostPipeline, notices: list[str] | None = None):
        super().__init__()
        if tam.config.latent_channels != (channels := pipeline.latent_channels):
            raise ValueError(
                f"TAM was built for {tam.config.latent_channels} latent channels, but the VAE of {pipeline.name} has "
                f"{channels}. Use the adapters of this base model."
            )
        self.tam, self._pipeline, self._notices = tam, pipeline, [] if notices is None else notices
        self._chunks, self._beta, self._mirror_first = tam.config.chunks, tam.config.beta, tam.config.mirror_first
        self._mark = uuid.uuid4().hex
        self._decoders = pipeline.decoders
        self._at_vae = pipeline.description.seam == "vae.decode"
        name, refine = ("decode", self._denormalised) if self._at_vae else (pipeline.description.seam, self._once)
        with contextlib.ExitStack() as put_on:
            for transformer in pipeline.transformers:
                put_on.callback(transformer.register_forward_pre_hook(self._before_forward).remove)
            for owner in self._decoders if self._at_vae else (pipeline.pipe,):
                decoder = RefiningDecoder.put_on(owner, name, refine)
                put_on.callback(decoder.take_off, owner, name, refine)
            self._put_on = put_on.pop_all()

    @property
    def chunks(self) -> int:
        """Number K of chunks; a video of fewer latent frames gets one per frame."""
        return self._chunks

    @chunks.setter
    def chunks(self, value: int) -> None:
        self._need_attached()
        self._chunks = size("chunks", value)

    @property
    def beta(self) -> float:
        """Strength beta of eq. 4; 0 leaves the latents as they are."""
        return self._beta

    @beta.setter
    def beta(self, value: float) -> None:
        self._need_attached()
        self._beta = finite("beta", value)

    @property
    def mirror_first(self) -> bool:
        """Whether TAM refines the first chunk as well, after its mirror image."""
        return self._mirror_first

    @mirror_first.setter
    def mirror_first(self, value: bool) -> None:
        self._need_attached()
        self._mirror_first = switch("mirror_first", value)

    def need_decoders(self) -> None:
        """Check that TAM refines what the pipeline decodes.

        Raises:
            ValueError: If the pipeline has another VAE than when TAM was attached.
        """
        self._need_attached()
        if self._at_vae:
            self._pipeline.need_refined(self._decoders)

    def refine(self, latents: Tensor) -> Tensor:
        """Refine latents that the pipeline gave for `output_type="latent"`; see `LaVieID.refine`."""
        self._need_attached()
        if not self.enabled:
            return latents
        self.need_decoders()
        description = self._pipeline.description
        if not isinstance(latents, Tensor):
            raise TypeError(f"latents are a {type(latents).__name__}, but must be a tensor. Refine each video apart.")
        if latents.ndim == 3:
            raise ValueError(
                f"latents of shape {tuple(latents.shape)} are packed: unpack them to (batch, channels, frames, height, "
                "width) first, with the pipeline's `_unpack_latents`. A modular pipeline gives them so as videos of "
                "output_type='latent'."
            )
        if description.unrefined is not None:
            raise ValueError(
                f"Latents of {self._pipeline.name} {description.unrefined}: let it decode them, or cut out the video, "
                "and give that to TAM's own `refine`."
            )
        return self._denormalised(latents) if description.denormalised else self._refine(latents, description.output)

    def _before_forward(self, transformer: nn.Module, args: tuple) -> None:
        """Refuse, ahead of a run and not after it, a pipeline of which TAM would not refine what is decoded."""
        if not torch.compiler.is_compiling() and self.enabled and self._pipeline.running:
            self.need_decoders()

    def _once(self, latents: Tensor) -> Tensor:
        """Refine normalised latents on the way to the pipeline's own method, unless they have been refined."""
        if not self.enabled or self._mark in getattr(latents, "refined_by_lavieid", ()):
            return latents
        return self._refine(latents, self._pipeline.description.layout)

    def _denormalised(self, latents: Tensor) -> Tensor:
        """Refine latents on the way to the VAE."""
        if not self.enabled:
            return latents
        return self._pipeline.refine_denormalised(latents, functools.partial(self._refine, layout="bcfhw"))

    def _refine(self, latents: Tensor, layout: str) -> Tensor:
        if layout not in LAYOUTS:
            axes = [layout.index(axis) for axis in "bcfhw"]
            refined = self._refine(latents.permute(axes), "bcfhw").permute([axes.index(i) for i in range(5)])
        else:
            while self._notices:
                warnings.warn(self._notices.pop(), stacklevel=2)
            # An offloaded pipeline has its models elsewhere between uses; so must TAM.
            rest = getattr(self._decoders[0], "device", latents.device)
            self.tam.place(latents.device)
            try:
                chunks = min(self.chunks, latents.shape[layout.index("f")])
                refined = self.tam.refine(latents, chunks, self.beta, layout, mirror_first=self.mirror_first)
            finally:
                if rest != latents.device:
                    self.tam.place("cpu")
        # Goes with the tensor, so that decoding does not refine it a second time.
        refined.refined_by_lavieid = {*getattr(latents, "refined_by_lavieid", ()), self._mark}
        return refined

    def _take_off(self) -> None:
        self._put_on.close()
        self._decoders = []

    def _describe(self) -> str:
        return (
            f"TAMHandle({self.tam.num_parameters() / 1e6:.1f} M parameters before the VAE decodes, {self.chunks} "
            f"chunks, beta {self.beta:g}{', first chunk mirrored' * self.mirror_first}, "
            f"{'enabled' if self.enabled else 'disabled'})"
        )


class RefiningDecoder:
    """A stand-in for a method that takes the latents of a video: it refines them first, by one function after another.

    Args:
        decode: The method.
        own: Whether it was the object's own, and not its class's.
    """

    def __init__(self, decode: Callable, own: bool):
        self.decode, self.own = decode, own
        self.refiners: list[Callable[[Tensor], Tensor]] = []
        first = next(iter(inspect.signature(decode).parameters.values()), None)
        if first is None or first.kind is first.VAR_KEYWORD:
            raise ValueError(
                f"{getattr(decode, '__qualname__', decode)} takes no first argument that could be the latents. Correct "
                "the VideoPipeline's `seam` or `decoders`."
            )
        self._latents = first.name
        functools.update_wrapper(self, decode)

    def __call__(self, *args, **kwargs):
        if args:
            args = (self._refined(args[0]), *args[1:])
        elif self._latents in kwargs:
            kwargs[self._latents] = self._refined(kwargs[self._latents])
        return self.decode(*args, **kwargs)

    def _refined(self, latents: Tensor) -> Tensor:
        for refine in self.refiners:
            latents = refine(latents)
        return latents

    def __reduce_ex__(self, protocol):
        if self.refiners:  # a copy would go on refining when these have long been taken off
            raise TypeError(
                "A pipeline or VAE with an attached TAM can be neither copied nor pickled. Detach it before, and "
                "attach it to the copy."
            )
        return super().__reduce_ex__(protocol)

    @classmethod
    def put_on(cls, owner, name: str, refine: Callable[[Tensor], Tensor]) -> "RefiningDecoder":
        """Let a method of a pipeline, or of its VAE, refine the latents that are its first argument.

        Functions act in the order in which they were put on.

        Raises:
            ValueError: If there is no such method.
        """
        decode = getattr(owner, name, None)
        if not callable(decode):
            raise ValueError(
                f"{type(owner).__name__} has no method '{name}' in which TAM could refine latents. Correct the "
                "VideoPipeline's `seam` or `decoders`."
            )
        if not isinstance(decode, cls):
            decode = cls(decode, own=name in vars(owner))
            setattr(owner, name, decode)
        decode.refiners.append(refine)
        return decode

    def take_off(self, owner, name: str, refine: Callable[[Tensor], Tensor]) -> None:
        """Undo `put_on`. What others have wrapped around stays, and finds nothing to refine."""
        self.refiners.remove(refine)
        if not self.refiners and vars(owner).get(name) is self:
            delattr(owner, name)
            if self.own:
                setattr(owner, name, self.decode)
