"""Options of a config: dataclass fields whose metadata holds help text, bounds, and whether a run may change them.

Types come from the annotations. Errors, `lavieid train --help` and the table in this folder's README are all written
from these two, so that an option is described in one place.
"""

import math
import os
import types
from collections.abc import Callable
from dataclasses import MISSING, Field, field
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin


def option(
    help: str,
    default: Any = MISSING,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: tuple[str, ...] = (),
    free: bool = False,
) -> Any:
    """Return the dataclass field of one option.

    Args:
        help: What the option does, in sentences.
        default: Its value if not given; none makes it required. Lists and mappings are copied.
        ge, gt, le, lt: Bounds of a number, or of each number in a tuple: ≥, >, ≤, <.
        choices: The texts that are allowed, where a `Literal` cannot name them; all if empty.
        free: Whether a run may be continued with another value: it changes no weight, as long as the global batch
            stays.
    """
    metadata = {"help": help, "ge": ge, "gt": gt, "le": le, "lt": lt, "choices": choices, "free": free}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def default_of(option: Field) -> Any:
    """Return a field's default value; `MISSING` if it is required."""
    return option.default if option.default_factory is MISSING else option.default_factory()


def checked(option: Field, hint: Any, value: Any) -> Any:
    """Return a value in its field's type.

    Whole numbers may stand for others, lists for tuples, paths for text, and text for numbers: YAML reads 3e-6 as text.

    Args:
        option: The field.
        hint: Its resolved annotation.
        value: What was given.

    Raises:
        ValueError: If the value is of another type, empty text, out of bounds or not finite.
    """
    try:
        if value == "":
            raise ValueError
        return _converted(hint, value, option.metadata)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{option.name} is {value!r}, but must be {expected(option, hint)}.") from error


def expected(option: Field, hint: Any) -> str:
    """Return a field's type and bounds in words, such as "a whole number of at least 1"."""
    return _in_words(hint, option.metadata)


def _converted(hint: Any, value: Any, metadata) -> Any:
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        return _first(lambda kind: _converted(kind, value, metadata), arguments)
    if kind is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
    elif kind is Any:
        return value
    elif kind is int:
        if isinstance(value, Integral) and not isinstance(value, bool) and _within(value, metadata):
            return int(value)
    elif kind is float:
        number = float(value) if isinstance(value, Real | str) and not isinstance(value, bool) else math.nan
        if math.isfinite(number) and _within(number, metadata):
            return number
    elif kind is str:
        if isinstance(value, str | os.PathLike) and (not metadata["choices"] or value in metadata["choices"]):
            return os.fspath(value)
    elif kind is tuple:
        if isinstance(value, list | tuple) and len(value) == len(arguments):
            return tuple(_converted(k, v, metadata) for k, v in zip(arguments, value, strict=True))
    elif kind is list:
        if isinstance(value, list | tuple):
            return [_converted(arguments[0], v, metadata) for v in value]
    elif kind is dict:
        if isinstance(value, dict):
            return {
                _converted(arguments[0], k, metadata): _converted(arguments[1], v, metadata) for k, v in value.items()
            }
    elif type(value) is kind:  # bool and None
        return value
    raise ValueError


def _first(convert: Callable[[Any], Any], kinds: tuple) -> Any:
    """Return the value in the first of several types that takes it."""
    for kind in kinds:
        try:
            return convert(kind)
        except (ValueError, OverflowError):
            continue
    raise ValueError


def _within(number: float, metadata) -> bool:
    ge, gt, le, lt = (metadata[name] for name in ("ge", "gt", "le", "lt"))
    above = (ge is None or number >= ge) and (gt is None or number > gt)
    return above and (le is None or number <= le) and (lt is None or number < lt)


def _in_words(hint: Any, metadata) -> str:
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        return ", or ".join(_in_words(argument, metadata) for argument in arguments)
    if kind is Literal:
        *names, last = map(repr, arguments)
        return f"{', '.join(names)} or {last}" if names else last
    if kind is str and metadata["choices"]:
        return f"one of {', '.join(metadata['choices'])}"
    if kind is list:
        return f"a list of {'mappings' if get_origin(arguments[0]) is dict else 'texts'}"
    if kind is tuple:
        return f"a list of {len(arguments)}, each {_in_words(arguments[0], metadata)}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a mapping"}
    return words.get(kind, "null") + (_bounds_in_words(metadata) if kind in (int, float) else "")


def _bounds_in_words(metadata) -> str:
    ge, gt, le, lt = (metadata[name] for name in ("ge", "gt", "le", "lt"))
    low = f"at least {ge:,}" if ge is not None else f"greater than {gt:,}" if gt is not None else ""
    high = f"at most {le:,}" if le is not None else f"less than {lt:,}" if lt is not None else ""
    bounds = " and ".join(filter(None, [low, high]))
    return f", {bounds}" if bounds else ""
