"""The base of what is attached to a host: on or off, and off for good."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..models.checks import switch

if TYPE_CHECKING:
    from typing_extensions import Self


class Handle:
    """Something attached to a host until `detach`; as a context manager, it detaches at its end.

    It attaches itself when it is made. After `detach` the host is what it was, bit for bit, and all methods that act
    on the host raise.
    """

    def __init__(self):
        self._attached, self._enabled = True, True
        self._end = "detached"

    @property
    def enabled(self) -> bool:
        """Whether it acts. If False, the host runs as if it were not attached.

        Raises:
            TypeError: If it is set to something else than True or False.
            ValueError: If it is set after `detach`.
        """
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._need_attached()
        self._switch(switch("enabled", value))

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Run the host within the block as if nothing were attached.

        Raises:
            ValueError: If it has been detached.
        """
        before = [(part, part.enabled) for part in self._parts()]
        self.enabled = False
        try:
            yield
        finally:
            for part, enabled in before:
                if part._attached:
                    part._switch(enabled)

    def detach(self) -> None:
        """Take it off: the host is then what it was. A second call does nothing."""
        if self._attached:
            self._attached = False
            self._take_off()

    def give_way(self) -> None:
        """Detach, because something that was attached later has taken its place."""
        self._end = "replaced by a later attach"
        self.detach()

    def _switch(self, value: bool) -> None:
        """Set `enabled`, with whatever a class derives from it."""
        self._enabled = value

    def _parts(self) -> Sequence["Handle"]:
        """Return the handles that are switched together: itself first, since it may switch the others."""
        return [self]

    def _take_off(self) -> None:
        """Undo what attaching did to the host, and let go of everything that was read or set."""
        raise NotImplementedError

    def _describe(self) -> str:
        """Return the `repr` of what is attached."""
        raise NotImplementedError

    def _need_attached(self) -> None:
        if not self._attached:
            remedy = "Attach its adapters again." if self._end == "detached" else "Use what that returned."
            raise ValueError(f"This {type(self).__name__} has been {self._end}. {remedy}")

    def __repr__(self) -> str:
        return self._describe() if self._attached else f"{type(self).__name__}({self._end})"

    def __reduce_ex__(self, protocol):
        # A hook's wrapper holds the host that it was made for: a copy of the host would run blocks of the original.
        raise TypeError(
            f"A host with an attached {type(self).__name__} can be neither copied nor pickled. Detach it before, and "
            "attach it to the copy. Adapters are saved by their save_pretrained."
        )

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_) -> None:
        self.detach()
