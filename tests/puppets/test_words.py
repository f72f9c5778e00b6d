"""The tokenizer of the captions."""

import torch

from lavieid_adapters.puppets.words import WordTokenizer
from lavieid_adapters.puppets.world.grammar import WORDS, caption


def test_words_become_tokens_and_no_prompt_is_longer():
    tokenizer = WordTokenizer.of(["park", "a", "in", "."], 6)
    ids = tokenizer("A tree in a Park.").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "<unk>", "in", "a", "park", ".", "</s>"]
    padded = tokenizer(["A park."], padding="max_length", max_length=226, truncation=True).input_ids
    assert [len(row) for row in padded] == [6]
    assert tokenizer(["A park."], padding="max_length", max_length=5).input_ids[0][-1] == tokenizer.pad_token_id


def test_every_caption_is_known_and_fits():
    tokenizer = WordTokenizer.of(WORDS, 24)
    for numbers in ((0, 0, 0, 0), (3, 2, 2, 1), (4, 6, 2, 2), (7, 8, 4, 3)):
        ids = tokenizer(caption(*numbers), padding="max_length").input_ids
        assert len(ids) == 24 and tokenizer.unk_token_id not in ids and tokenizer.eos_token_id in ids


def test_it_is_the_same_from_its_file(tmp_path):
    tokenizer = WordTokenizer.of(WORDS, 24)
    tokenizer.save_pretrained(tmp_path)
    again = WordTokenizer.from_pretrained(tmp_path)
    assert again.model_max_length == 24
    settings = {"padding": "max_length", "max_length": 226, "return_tensors": "pt"}
    given = [each(caption(1, 2, 3), **settings).input_ids for each in (tokenizer, again)]
    assert given[0].shape == (1, 24) and torch.equal(*given)
