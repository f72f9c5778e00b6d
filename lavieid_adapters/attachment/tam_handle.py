"""TAM on a pipeline: it refines the latents of what the pipeline decodes, or of what it gives without decoding."""

# b batch · c channels · f frames · h w height and width

import contextlib
import functools
import uuid
import warnings

from torch import Tensor, nn

from ..hosts.pipeline import HostPipeline
from ..models.checks import finite
from ..models.tam import LAYOUTS, TAM
from .decoder import RefiningDecoder


class Refiner:
    """TAM with its settings, on a pipeline.

    Args:
        pipeline: The pipeline.
        tam: None if there is none; then nothing is refined.
        notices: Warnings that are given when TAM first acts.

    Attributes:
        enabled: Whether it acts.
    """

    def __init__(self, pipeline: HostPipeline, tam: TAM | None, notices: list[str]):
        self.pipeline, self.kind, self.tam, self.notices = pipeline, pipeline.description, tam, notices
        self.enabled = True
        self._put_on = contextlib.ExitStack()
        self._mark = uuid.uuid4().hex
        self._decoders: list[nn.Module] = []
        self._chunks, self._beta, self._mirror_first = 4, 0.2, False
        if tam is not None:
            self._chunks, self._beta, self._mirror_first = tam.config.chunks, tam.config.beta, tam.config.mirror_first

    @property
    def chunks(self) -> int:
        """TAM's number K of chunks; a clip of fewer latent frames gets one a frame."""
        return self._chunks

    @chunks.setter
    def chunks(self, value: int) -> None:
        if value < 1:
            raise ValueError(f"chunks is {value}, but must be at least 1.")
        self._chunks = value

    @property
    def beta(self) -> float:
        """TAM's strength beta of eq. 4; 0 leaves the latents as they are."""
        return self._beta

    @beta.setter
    def beta(self, value: float) -> None:
        self._beta = finite("beta", value)

    @property
    def mirror_first(self) -> bool:
        """Whether TAM refines the first chunk as well, behind its mirror image."""
        return self._mirror_first

    @mirror_first.setter
    def mirror_first(self, value: bool) -> None:
        self._mirror_first = bool(value)

    def put_on(self) -> None:
        """Let TAM refine what the pipeline decodes, if there is a TAM."""
        if self.tam is None:
            return
        at_vae = self.kind.seam == "vae.decode"
        name, refine = ("decode", self._denormalised) if at_vae else (self.kind.seam, self._once)
        self._decoders = self.pipeline.decoders
        for owner in self._decoders if at_vae else (self.pipeline.pipe,):
            decoder = RefiningDecoder.put_on(owner, name, refine)
            self._put_on.callback(decoder.take_off, owner, name, refine)

    def check(self) -> None:
        """See that TAM refines what the pipeline decodes.

        Raises:
            ValueError: If its VAE is another one than when TAM was put on.
        """
        if self.tam is not None and self.kind.seam == "vae.decode":
            self.pipeline.need_refined(self._decoders)

    def take_off(self) -> None:
        """Undo `put_on`; from then on nothing is refined."""
        self.tam, self._decoders = None, []
        self._put_on.close()

    def refine(self, latents: Tensor) -> Tensor:
        """TAM on what the pipeline gave for `output_type="latent"`; see `LaVieID.refine`."""
        if not self._acts:
            return latents
        self.check()
        if not isinstance(latents, Tensor):
            raise TypeError(f"latents are a {type(latents).__name__}, but must be a tensor: refine each clip apart.")
        if latents.ndim == 3:
            raise ValueError(
                f"latents of shape {tuple(latents.shape)} are packed: unpack them to (batch, channels, frames, height, "
                "width) first, with the pipeline's `_unpack_latents`; a modular pipeline gives them so as videos of "
                "output_type='latent'."
            )
        if self.kind.unrefined is not None:
            raise ValueError(
                f"Latents of {self.pipeline.name} {self.kind.unrefined}: let it decode them, or cut out the "
                "clip, and give that to TAM's own `refine`."
            )
        return self._denormalised(latents) if self.kind.denormalised else self._refine(latents, self.kind.output)

    @property
    def _acts(self) -> bool:
        return self.tam is not None and self.enabled

    def _once(self, latents: Tensor) -> Tensor:
        """Normalised latents on the way to the pipeline's own method; those that have been refined stay."""
        if not self._acts or self._mark in getattr(latents, "refined_by_lavieid", ()):
            return latents
        return self._refine(latents, self.kind.layout)

    def _denormalised(self, latents: Tensor) -> Tensor:
        """Latents on the way to the VAE."""
        if not self._acts:
            return latents
        return self.pipeline.refine_denormalised(latents, functools.partial(self._refine, layout="bcfhw"))

    def _refine(self, latents: Tensor, layout: str) -> Tensor:
        if layout not in LAYOUTS:
            axes = [layout.index(axis) for axis in "bcfhw"]
            refined = self._refine(latents.permute(axes), "bcfhw").permute([axes.index(i) for i in range(5)])
        else:
            while self.notices:
                warnings.warn(self.notices.pop(), stacklevel=2)
            # An offloaded pipeline keeps its models elsewhere between uses; so must TAM.
            rest = self._decoders[0].device
            self.tam.to(latents.device)
            try:
                chunks = min(self.chunks, latents.shape[layout.index("f")])
                refined = self.tam.refine(latents, chunks, self.beta, layout, mirror_first=self.mirror_first)
            finally:
                if rest != latents.device:
                    self.tam.to("cpu")
        # Goes with the tensor, so that decoding does not refine it a second time.
        refined.refined_by_lavieid = {*getattr(latents, "refined_by_lavieid", ()), self._mark}
        return refined
