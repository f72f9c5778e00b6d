"""A small ConsisID transformer."""

from diffusers import ConsisIDTransformer3DModel
from support import tiny

DIM = 48  # ConsisID's tokens are two thirds of it wide, which must be LFE_output_dim


def consisid_transformer(seed: int = 0, **config) -> ConsisIDTransformer3DModel:
    """A small ConsisID transformer with random weights and two cross-attentions."""
    sizes = {
        "num_attention_heads": 3, "attention_head_dim": DIM // 3, "in_channels": 4, "out_channels": 4, "num_layers": 4,
        "time_embed_dim": 8, "text_embed_dim": 16, "sample_width": 8, "sample_height": 8, "sample_frames": 9,
        "is_train_face": True, "cross_attn_interval": 2, "cross_attn_dim_head": 8, "cross_attn_num_heads": 4,
        "LFE_id_dim": 24, "LFE_vit_dim": 16, "LFE_depth": 10, "LFE_dim_head": 8, "LFE_num_heads": 2, "LFE_ff_mult": 2,
        "LFE_num_id_token": 2, "LFE_num_querie": 8, "LFE_output_dim": DIM // 3 * 2,
    }  # fmt: skip
    return tiny.randomise(ConsisIDTransformer3DModel(**{**sizes, **config}), seed).eval()
