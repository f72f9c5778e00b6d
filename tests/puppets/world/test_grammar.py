"""Captions say scene, motion and expression, in words that can be read back, and never who is seen."""

import itertools
import re

import pytest

from lavieid_adapters.puppets.world.grammar import EXPRESSIONS, MOTIONS, SCENES, WORDINGS, WORDS, caption, prompt_ids
from lavieid_adapters.puppets.world.person import PARAMETERS, STYLES

ALL = list(itertools.product(range(len(SCENES)), range(len(MOTIONS)), range(len(EXPRESSIONS)), range(len(WORDINGS))))


def test_every_caption_is_read_back():
    for numbers in ALL:
        assert prompt_ids(caption(*numbers)) == numbers[:3]


def test_all_captions_differ():
    assert len({caption(*numbers) for numbers in ALL}) == len(ALL)


def test_captions_use_all_the_words_and_no_others():
    used = {word for numbers in ALL for word in re.findall(r"[a-z]+|[.,]", caption(*numbers).lower())}
    assert used == set(WORDS)
    assert list(WORDS) == sorted(WORDS) and len(WORDS) < 90


def test_no_word_tells_identity():
    # "face" and "head" are where a motion or an expression is, not how they look.
    told = {"he", "she", "his", "her", "man", "woman", "old", "young", "eyes", "brow", "nose", "mouth", "skin", "hair"}
    told |= {part for parameter in PARAMETERS for part in parameter.name.split("_")} - {"head"}
    told |= {part for style in STYLES for choice in (style.name, *style.choices) for part in re.split("[_ ]", choice)}
    assert not (told - {"left", "right", "side", "none"}) & set(WORDS)


def test_a_caption_is_a_sentence():
    assert caption(0, 0, 1) == "A person nods in a park, with a smile."
    assert all(caption(*numbers)[0].isupper() and caption(*numbers).endswith(".") for numbers in ALL)


def test_case_and_order_do_not_matter_and_calm_is_assumed():
    expected = (SCENES.index("beach"), MOTIONS.index("talk"), EXPRESSIONS.index("neutral"))
    assert prompt_ids("on a BEACH a person talks") == expected
    assert prompt_ids("A person talks. On a beach, with a calm face.") == expected


def test_what_is_not_understood_is_told():
    with pytest.raises(ValueError, match="name one scene, but names none of: in a park"):
        prompt_ids("A person nods.")
    with pytest.raises(ValueError, match="name one motion, but names more than one"):
        prompt_ids("A person nods and talks in a park.")
    with pytest.raises(ValueError, match=r"does not know: dragon, purple\."):
        prompt_ids("A purple dragon nods in a park.")
    with pytest.raises(ValueError, match=f"scene is {len(SCENES)}, but must be 0 to"):
        caption(len(SCENES), 0, 0)
    with pytest.raises(ValueError, match="wording is -1"):
        caption(0, 0, 0, -1)
