"""Captions: a clip's scene, motion and expression in words, and never who it shows."""

import re

SCENES = ("park", "office", "beach", "street", "mountains", "library", "desert", "kitchen")
MOTIONS = ("nod", "shake", "turn", "tilt", "approach", "retreat", "cross", "talk", "look_up")
EXPRESSIONS = ("neutral", "smiling", "surprised", "angry", "sad")

_PLACES = {
    "park": "in a park",
    "office": "in an office",
    "beach": "on a beach",
    "street": "on a street at night",
    "mountains": "in the snowy mountains",
    "library": "in a library",
    "desert": "in a desert",
    "kitchen": "in a kitchen",
}
_ACTIONS = {
    "nod": "nods",
    "shake": "shakes the head",
    "turn": "turns from left to right",
    "tilt": "tilts the head",
    "approach": "walks closer",
    "retreat": "steps back",
    "cross": "walks across the picture",
    "talk": "talks",
    "look_up": "looks up",
}
_FACES = {
    "neutral": "with a calm face",
    "smiling": "with a smile",
    "surprised": "with a surprised face",
    "angry": "with an angry face",
    "sad": "with a sad face",
}
WORDINGS = (
    "A person {action} {place}, {face}.",
    "{Place}, a person {action}, {face}.",
    "{Face}, a person {action} {place}.",
    "A person {face} {action} {place}.",
)


def caption(scene: int, motion: int, expression: int, wording: int = 0) -> str:
    """Write the caption of a clip.

    Args:
        scene: Number of one of SCENES.
        motion: Number of one of MOTIONS.
        expression: Number of one of EXPRESSIONS.
        wording: Number of one of WORDINGS.

    Returns:
        One sentence.

    Raises:
        ValueError: If a number is out of range.
    """
    for name, number, choices in (
        ("scene", scene, SCENES),
        ("motion", motion, MOTIONS),
        ("expression", expression, EXPRESSIONS),
        ("wording", wording, WORDINGS),
    ):
        if not 0 <= number < len(choices):
            raise ValueError(f"The {name} is {number}, but must be 0 to {len(choices) - 1}: {', '.join(choices)}.")
    place, action = _PLACES[SCENES[scene]], _ACTIONS[MOTIONS[motion]]
    face = _FACES[EXPRESSIONS[expression]]
    return WORDINGS[wording].format(
        place=place, action=action, face=face, Place=place.capitalize(), Face=face.capitalize()
    )


def prompt_ids(text: str) -> tuple[int, int, int]:
    """Read what a caption says: the inverse of `caption`, whatever the order and the case of its phrases.

    Args:
        text: A caption.

    Returns:
        The numbers of its scene, its motion and its expression. A caption without an expression is neutral.

    Raises:
        ValueError: If no scene or motion is found, or two are, or a word is not understood.
    """
    spoken = " " + " ".join(re.findall(r"[a-z]+", text.lower())) + " "
    scene = _found("scene", spoken, _PLACES, text)
    motion = _found("motion", spoken, _ACTIONS, text)
    expression = _found("expression", spoken, _FACES, text, otherwise=EXPRESSIONS.index("neutral"))
    unknown = sorted(set(spoken.split()) - set(WORDS))
    if unknown:
        raise ValueError(f"{text!r} has words that the drawn world does not know: {', '.join(unknown)}. {_HELP}")
    return scene, motion, expression


def _found(what: str, spoken: str, phrases: dict[str, str], text: str, otherwise: int | None = None) -> int:
    found = [i for i, phrase in enumerate(phrases.values()) if f" {phrase} " in spoken]
    if len(found) == 1:
        return found[0]
    if not found and otherwise is not None:
        return otherwise
    number = "none" if not found else "more than one"
    raise ValueError(f"{text!r} must name one {what}, but names {number} of: {'; '.join(phrases.values())}. {_HELP}")


_HELP = f"A caption that is understood: {caption(0, 0, 1)!r}"

WORDS = tuple(
    sorted(
        {".", ","}
        | {
            word
            for phrase in (*_PLACES.values(), *_ACTIONS.values(), *_FACES.values(), "a person")
            for word in phrase.split()
        }
    )
)
