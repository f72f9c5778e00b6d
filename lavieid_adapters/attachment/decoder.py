"""TAM before a pipeline's VAE: a stand-in for the method that takes the latents of a clip, which refines them first."""

import functools
import inspect
from collections.abc import Callable

from torch import Tensor


class RefiningDecoder:
    """Refines latents with one function after another, then decodes them as the method does that it stands for."""

    def __init__(self, decode: Callable, own: bool):
        self.decode, self.own = decode, own
        self.refiners: list[Callable[[Tensor], Tensor]] = []
        self._latents = next(iter(inspect.signature(decode).parameters))
        functools.update_wrapper(self, decode)

    def __call__(self, *args, **kwargs):
        named = {self._latents: args[0], **kwargs} if args else dict(kwargs)
        for refine in self.refiners:
            named[self._latents] = refine(named[self._latents])
        return self.decode(named.pop(self._latents), *args[1:], **named)

    def __reduce_ex__(self, protocol):
        if self.refiners:  # a copy would go on refining when these have long been taken off
            raise TypeError(
                "A pipeline or VAE with an attached TAM can be neither copied nor pickled: detach it before, and "
                "attach it to the copy."
            )
        return super().__reduce_ex__(protocol)

    @classmethod
    def put_on(cls, owner, name: str, refine: Callable[[Tensor], Tensor]) -> "RefiningDecoder":
        """Let a method of a pipeline, or of its VAE, refine the latents that are its first argument; functions act in
        the order in which they were put on."""
        decode = getattr(owner, name)
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
