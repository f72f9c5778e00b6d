"""What the router's handle and the object of a pipeline have in common: they can be switched off, and taken off."""

from collections.abc import Iterator
from contextlib import contextmanager


class Attachment:
    """Something attached to a host; as a context manager, it detaches at its end.

    Attributes:
        enabled: Whether it acts.
    """

    enabled = True

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the host runs as if nothing were attached."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    def detach(self) -> None:
        """Take it off: the host is then what it was."""
        raise NotImplementedError

    def __reduce_ex__(self, protocol):
        # A hook's wrapper holds the host that it was made for: a copy of the host would run blocks of the original.
        raise TypeError(
            f"A host with an attached {type(self).__name__} can be neither copied nor pickled: detach it before, and "
            "attach it to the copy. Adapters are saved by their save_pretrained."
        )

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.detach()
