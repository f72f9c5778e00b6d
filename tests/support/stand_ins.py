"""Tiny stand-ins of the models on the Hub that diffusers' own tests load, written as a cache of the Hub.

They have the classes of the real ones, seeded random weights and tokenizers of single letters, so that the tests run
offline; those that compare with numbers of the real ones fail.
"""

import string
from pathlib import Path

import torch
import transformers as hf
from tokenizers.pre_tokenizers import ByteLevel

LETTERS = [f"{space}{letter}" for space in ("", "▁") for letter in ("", *string.printable[:95])][1:]
VISION = {
    "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
    "vision_token_id": "<|vision_pad|>", "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
}  # fmt: skip
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
)


def _numbered(*words: str) -> dict[str, int]:
    return {word: i for i, word in enumerate(dict.fromkeys(words))}


def _t5():
    config = hf.T5Config(vocab_size=1103, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    words = ["<pad>", "</s>", "<unk>", *LETTERS]
    return hf.T5EncoderModel(config), hf.T5Tokenizer([(word, -float(i > 2)) for i, word in enumerate(words)])


def _clip():
    letters = sorted(ByteLevel.alphabet())
    words = _numbered("<|startoftext|>", *letters, *(f"{letter}</w>" for letter in letters), "<|endoftext|>")
    return (hf.CLIPTokenizer(words, [], model_max_length=77),)


def _qwen():
    tokenizer = hf.Qwen2Tokenizer(
        _numbered(*sorted(ByteLevel.alphabet()), "<|endoftext|>"), [], chat_template=CHAT,
        additional_special_tokens=["<|im_start|>", "<|im_end|>", *VISION.values()],
    )  # fmt: skip
    numbers = {name: tokenizer.convert_tokens_to_ids(token) for name, token in VISION.items()}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    text = {**sizes, "num_key_value_heads": 2, "vocab_size": len(tokenizer), "rope_parameters": rope}
    text["bos_token_id"] = text["eos_token_id"] = tokenizer.eos_token_id
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2}
    config = hf.Qwen2VLConfig(text_config=text, vision_config=vision, **numbers)
    images = hf.Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56)
    processor = hf.Qwen2VLProcessor(images, tokenizer, hf.Qwen2VLVideoProcessor(), chat_template=CHAT)
    return hf.Qwen2VLForConditionalGeneration(config), processor


def _llama():
    return (hf.LlamaTokenizer(_numbered("<unk>", "<s>", "</s>", *LETTERS), [], pad_token="<unk>"),)


def _gemma_tokenizer():
    words = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
    return hf.GemmaTokenizer(_numbered(*words, *LETTERS), [])


def _gemma3():
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 512, "head_dim": 8, "num_key_value_heads": 1}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    config = hf.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return hf.Gemma3ForConditionalGeneration(config), _gemma_tokenizer()


def _siglip():
    config = hf.SiglipVisionConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, image_size=30, patch_size=2
    )
    return hf.SiglipVisionModel(config), hf.SiglipImageProcessor(size={"height": 30, "width": 30})


STAND_INS = {
    "hf-internal-testing/tiny-random-t5": _t5,
    "hf-internal-testing/tiny-random-clip": _clip,
    "hf-internal-testing/tiny-random-Qwen2VLForConditionalGeneration": _qwen,
    "hf-internal-testing/tiny-random-SiglipVisionModel": _siglip,
    "hf-internal-testing/tiny-gemma3": _gemma3,
    "hf-internal-testing/dummy-gemma": lambda: (_gemma_tokenizer(),),
    "finetrainers/dummy-hunyaunvideo:tokenizer": _llama,
}


def write_hub_cache(folder: Path) -> None:
    """Write all stand-ins as a cache that `HF_HUB_CACHE` may name."""
    for name, build in STAND_INS.items():
        repo, _, subfolder = name.partition(":")
        home, revision = folder / f"models--{repo.replace('/', '--')}", "0" * 40
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text(revision)
        torch.manual_seed(0)
        for part in build():
            part.save_pretrained(home / "snapshots" / revision / subfolder)
