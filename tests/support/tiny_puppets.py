"""A folder of weights of the drawn world's layout, with small random models in it."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from support import tiny
from transformers import CLIPVisionModelWithProjection, T5Config, T5EncoderModel

from lavieid_adapters.models.checkpoint import Metadata, save_folder
from lavieid_adapters.puppets.sight.face_net import FaceNet, vision_config
from lavieid_adapters.puppets.words import WordTokenizer
from lavieid_adapters.puppets.world.grammar import WORDS

LENGTH = 24  # tokens of a prompt


def save_base(folder: Path) -> None:
    """A pipeline of the drawn world's frames and grid, in half precision, with adapters that act beside it."""
    torch.manual_seed(0)
    width = 32
    tokenizer = WordTokenizer.of(WORDS, LENGTH)
    text = T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    parts = {
        "tokenizer": tokenizer,
        "text_encoder": T5EncoderModel(text),
        "vae": AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
            down_block_types=("CogVideoXDownBlock3D",) * 3, up_block_types=("CogVideoXUpBlock3D",) * 3,
            sample_width=96, sample_height=96,
        ),
        "transformer": CogVideoXTransformer3DModel(
            num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=4, time_embed_dim=16,
            text_embed_dim=width, num_layers=2, sample_width=24, sample_height=24, sample_frames=33,
            max_text_seq_length=LENGTH, use_rotary_positional_embeddings=True,
        ),
        "scheduler": CogVideoXDDIMScheduler(),
    }  # fmt: skip
    for name in ("text_encoder", "vae", "transformer"):
        parts[name] = parts[name].half()
    CogVideoXPipeline(**parts).save_pretrained(folder)
    encoder = tiny.encoder(id_dim=512 + 64, vit_dim=96, depth=2, num_scales=2, vision_model="puppets")
    save_folder({"router": tiny.router(), "encoder": encoder, "tam": tiny.tam()}, folder / "lavieid", Metadata("base"))


def save_reading(folder: Path) -> None:
    """What photos are read by, of the drawn world's sizes."""
    FaceNet().half().save_pretrained(folder / "face")
    CLIPVisionModelWithProjection(vision_config()).half().save_pretrained(folder / "vision")
    processor = {"image_processor_type": "CLIPImageProcessor", "crop_size": 48, "size": {"shortest_edge": 48}}
    (folder / "vision" / "preprocessor_config.json").write_text(json.dumps(processor))
