"""Options as fields of a dataclass: their types, bounds and words."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest

from lavieid_adapters.training.options import MISSING, checked, default_of, expected, option


@dataclass
class Oven:
    """A config that no run has."""

    name: str = option("Its name.")
    loaves: int = option("How many.", 4, ge=1, le=12, free=True)
    degrees: float | None = option("How hot.", None, gt=0)
    share: float = option("How full.", 0.5, ge=0, lt=1)
    side: Literal["top", "bottom"] | int = option("Which heat.", "top", ge=0)
    grain: str = option("Of what.", "rye", choices=("rye", "wheat"))
    times: tuple[float, float] = option("When.", (0.0, 1.0), ge=0)
    extras: list[str] = option("What else.", ["salt"])
    settings: dict[str, Any] = option("The rest.", {})
    steam: bool = option("Whether.", False)


def check(name: str, value):
    (found,) = (f for f in fields(Oven) if f.name == name)
    return checked(found, get_type_hints(Oven)[name], value)


def test_an_option_is_a_plain_field_with_metadata():
    assert isinstance(option("Help.", 1), type(field()))
    loaves = fields(Oven)[1]
    assert (loaves.default, loaves.metadata["help"], loaves.metadata["free"]) == (4, "How many.", True)
    assert not fields(Oven)[2].metadata["free"]


def test_defaults_are_each_instances_own():
    one, other = Oven("a"), Oven("b")
    one.extras.append("seeds")
    one.settings["x"] = 1
    assert (other.extras, other.settings) == (["salt"], {})
    by_name = {f.name: default_of(f) for f in fields(Oven)}
    assert by_name["name"] is MISSING and by_name["extras"] == ["salt"] and by_name["loaves"] == 4


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("name", Path("a/b"), "a/b"),
        ("loaves", 12, 12),
        ("degrees", "2.2e2", 220.0),
        ("degrees", 220, 220.0),
        ("degrees", None, None),
        ("share", 0, 0.0),
        ("side", "bottom", "bottom"),
        ("side", 3, 3),
        ("grain", "wheat", "wheat"),
        ("times", [1, "2"], (1.0, 2.0)),
        ("extras", ("a", "b"), ["a", "b"]),
        ("extras", [], []),
        ("settings", {"a": [1]}, {"a": [1]}),
        ("steam", True, True),
    ],
)
def test_values_are_given_in_the_fields_type(name, value, wanted):
    found = check(name, value)
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("name", ["", 3, None], "text"),
        ("loaves", [0, 13, 2.0, True, "4", None, float("nan")], "a whole number, at least 1 and at most 12"),
        ("degrees", [0, -1, "hot", "nan", float("inf"), True, 10**400], "a number, greater than 0, or null"),
        ("share", [1, -0.1, None], "a number, at least 0 and less than 1"),
        ("side", ["left", -1, 1.5, True], "'top' or 'bottom', or a whole number, at least 0"),
        ("grain", ["oat", ""], "one of rye, wheat"),
        ("times", [[1], [1, -1], [1, 2, 3], 1, "12"], "a list of 2, each a number, at least 0"),
        ("extras", ["salt", [1], {"a": 1}], "a list of texts"),
        ("settings", [[], "a", {1: 2}], "a mapping"),
        ("steam", [1, 0, "yes", None], "true or false"),
    ],
)
def test_errors_hold_the_value_and_what_it_must_be(name, wrong, words):
    (found,) = (f for f in fields(Oven) if f.name == name)
    assert expected(found, get_type_hints(Oven)[name]) == words
    for value in wrong:
        with pytest.raises(ValueError) as caught:
            check(name, value)
        assert str(caught.value) == f"{name} is {value!r}, but must be {words}."
