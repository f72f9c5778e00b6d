"""The tokenizer of the captions: a token is a word of the grammar, and no prompt is longer than a caption can be.

The pipeline's `model_index.json` names this module, so it has a file of its own.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_SPECIAL = ("<pad>", "</s>", "<unk>")


class WordTokenizer(PreTrainedTokenizerFast):
    """A tokenizer that pads to `model_max_length` tokens, as in training, though CogVideoX's pipeline asks for 226."""

    @classmethod
    def of(cls, words: Iterable[str], length: int) -> "WordTokenizer":
        """Build one that knows some words, in lower case, and pads to `length` tokens, the end's included."""
        ids = {word: i for i, word in enumerate((*_SPECIAL, *sorted(set(words))))}
        backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
        backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", ids["</s>"])])
        named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        return cls(tokenizer_object=backend, model_max_length=length, **named)

    def __call__(self, *args, max_length: int | None = None, **kwargs):
        """Tokenize as transformers do, with `max_length` at most `model_max_length`."""
        if max_length is not None:
            max_length = min(max_length, self.model_max_length)
        return super().__call__(*args, max_length=max_length, **kwargs)
