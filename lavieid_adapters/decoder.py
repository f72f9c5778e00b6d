"""TAM before a pipeline's VAE: a stand-in for `decode_latents` that refines first."""

import functools
from collections.abc import Callable

from torch import Tensor


class RefiningDecoder:
    """Refines latents with one function after another, then decodes them as the pipeline does."""

    def __init__(self, decode: Callable):
        self.decode = decode
        self.refiners: list[Callable[[Tensor], Tensor]] = []
        functools.update_wrapper(self, decode)

    def __call__(self, latents: Tensor, *args, **kwargs):
        for refine in self.refiners:
            latents = refine(latents)
        return self.decode(latents, *args, **kwargs)

    @classmethod
    def put_on(cls, pipe, refine: Callable[[Tensor], Tensor]) -> "RefiningDecoder":
        """Let a pipeline refine what it decodes; functions act in the order in which they were put on."""
        if not isinstance(pipe.decode_latents, cls):
            pipe.decode_latents = cls(pipe.decode_latents)
        pipe.decode_latents.refiners.append(refine)
        return pipe.decode_latents

    def take_off(self, pipe, refine: Callable[[Tensor], Tensor]) -> None:
        """Undo `put_on`. What others have wrapped around stays, and finds nothing to refine."""
        self.refiners.remove(refine)
        if not self.refiners and pipe.__dict__.get("decode_latents") is self:
            del pipe.decode_latents
