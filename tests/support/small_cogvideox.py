"""A CogVideoX pipeline of a few hundred thousand random weights, from a prompt in words to frames."""

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

PROMPT = "She walks through a park in autumn."


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of the prompt's words, since T5's own would have to be downloaded."""
    words = ["<pad>", "</s>", "<unk>", *sorted(set(PROMPT.lower().replace(".", " .").split()))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=226
    )


def small_components(**transformer) -> dict:
    """Return the components of a `CogVideoXPipeline`; keywords go to the transformer."""
    torch.manual_seed(0)
    text = T5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    config = {
        "num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 4, "out_channels": 4, "time_embed_dim": 16,
        "text_embed_dim": 32, "num_layers": 3, "sample_width": 24, "sample_height": 16, "sample_frames": 17,
        "max_text_seq_length": 16, "use_rotary_positional_embeddings": True,
    }  # fmt: skip
    return {
        "tokenizer": word_tokenizer(),
        "text_encoder": T5EncoderModel(text).eval(),
        "vae": AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
            down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
            sample_width=192, sample_height=128,
        ).eval(),
        "transformer": CogVideoXTransformer3DModel(**{**config, **transformer}).eval(),
        "scheduler": CogVideoXDDIMScheduler(),
    }  # fmt: skip
