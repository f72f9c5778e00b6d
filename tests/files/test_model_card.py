"""The card's text and front matter, from plain data."""

import pytest
from huggingface_hub import ModelCard

from lavieid_adapters.files.model_card import model_card, settings_line

ONE = {"Router": (31_000_000, {"dim": 3072, "background": False, "_class_name": "Router"})}


def test_the_card_of_one_names_its_class_its_size_and_its_settings():
    card = ModelCard(model_card(ONE, "mit"))
    assert card.data.license == "mit" and card.data.library_name == "lavieid-adapters"
    assert "| `Router` | 31.0 M | dim 3072, background False |" in card.text
    assert "from lavieid_adapters import Router" in card.text and "attach_lavieid" not in card.text
    assert "Base model: not recorded" in card.text and "Transformer block: not recorded" in card.text
    assert "lavieid" not in card.data.to_dict()


def test_a_record_is_kept_in_the_front_matter_and_uses_all():
    record = {"block_idx": 2, "encoder": "0123456789abcdef", "base_model": "me/base"}
    card = ModelCard(model_card({"router": ONE["Router"], "tam": (7, {})}, "mit", "me/base", record))
    assert card.data.to_dict()["lavieid"] == record
    assert "Transformer block: 2" in card.text and "attach_lavieid(pipe" in card.text
    assert "| `tam` | 0.0 M |" in card.text


@pytest.mark.parametrize("base", ["/models/base", "./base", "~/base", "base", "a/b/c"])
def test_a_path_is_named_but_not_linked_as_the_base_model(base):
    card = ModelCard(model_card(ONE, "mit", base))
    assert card.data.base_model is None and f"Base model: {base}" in card.text
    linked = ModelCard(model_card(ONE, "mit", "me/base"))
    assert linked.data.base_model == "me/base"


def test_how_it_was_trained_is_a_table_of_its_own():
    assert "## Training" not in model_card(ONE, "mit")
    text = model_card(ONE, "mit", training={"learning_rate": 3e-6, "steps": 10})
    assert "## Training" in text and "| learning rate | 3e-06 |" in text and "| steps | 10 |" in text
    assert text.index("## How to use") < text.index("## Training") < text.index("## Responsible use")


def test_names_that_begin_with_an_underscore_are_no_settings():
    assert settings_line({"a": 1, "_b": 2, "c": "x"}) == "a 1, c x"
