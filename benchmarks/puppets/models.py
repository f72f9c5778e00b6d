"""The models of the drawn world at their shipped sizes: diffusers' and transformers' own classes, untrained."""

from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from transformers import T5Config, T5EncoderModel

from lavieid_adapters import TAM, LocalFacialEncoder, LocalRouter
from lavieid_adapters.puppets.sight.face_net import vision_config
from lavieid_adapters.puppets.words import WordTokenizer
from lavieid_adapters.puppets.world.grammar import WORDS

PROMPT_LENGTH = 24  # tokens of a prompt
LATENT_CHANNELS = 16
HEADS, _HEAD_WIDTH = 5, 64
WIDTH = HEADS * _HEAD_WIDTH  # of video tokens
_TEXT_WIDTH = 64


def new_vae(tiny: bool = False) -> AutoencoderKLCogVideoX:
    """Fourfold in space and time; most of its 7.4 M parameters are where the pictures are smallest, at little cost."""
    return AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 16) if tiny else (32, 64, 128), latent_channels=LATENT_CHANNELS, layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CogVideoXDownBlock3D",) * 3, up_block_types=("CogVideoXUpBlock3D",) * 3,
        sample_width=96, sample_height=96,
    )  # fmt: skip


def new_tokenizer() -> WordTokenizer:
    return WordTokenizer.of(WORDS, PROMPT_LENGTH)


def new_text_encoder() -> T5EncoderModel:
    sizes = {"d_model": _TEXT_WIDTH, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
    return T5EncoderModel(T5Config(vocab_size=len(new_tokenizer()), dropout_rate=0.0, **sizes))


def new_transformer(tiny: bool = False) -> CogVideoXTransformer3DModel:
    """9 × 12 × 12 video tokens; 12 M parameters."""
    return CogVideoXTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=_HEAD_WIDTH, in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS, time_embed_dim=64, text_embed_dim=_TEXT_WIDTH, num_layers=1 if tiny else 8,
        sample_width=24, sample_height=24, sample_frames=33, max_text_seq_length=PROMPT_LENGTH,
        use_rotary_positional_embeddings=True,
    )  # fmt: skip


def new_scheduler() -> CogVideoXDDIMScheduler:
    """As CogVideoX-5B's: velocities, and no signal at all at the last timestep."""
    return CogVideoXDDIMScheduler(
        beta_end=0.012, beta_schedule="scaled_linear", beta_start=0.00085, clip_sample=False, num_train_timesteps=1000,
        prediction_type="v_prediction", rescale_betas_zero_snr=True, set_alpha_to_one=True, snr_shift_scale=1.0,
        steps_offset=0, timestep_spacing="trailing",
    )  # fmt: skip


def new_router(cls: type[LocalRouter] = LocalRouter, **settings) -> LocalRouter:
    sizes = {"dim": WIDTH, "token_dim": 96, "inner_dim": 256, "num_heads": 4, "tokens_per_component": 8}
    return cls(**{**sizes, **settings})


def new_encoder() -> LocalFacialEncoder:
    vision = vision_config()
    return LocalFacialEncoder(
        id_dim=512 + vision.projection_dim, vit_dim=vision.hidden_size, depth=2, head_dim=24, num_heads=4,
        num_id_tokens=2, tokens_per_component=8, token_dim=96, ff_mult=2, num_scales=2, vision_model="puppets",
    )  # fmt: skip


def new_tam(**settings) -> TAM:
    sizes = {"latent_channels": LATENT_CHANNELS, "patch_size": 2, "dim": 96, "num_layers": 6, "num_heads": 4}
    return TAM(**{**sizes, **settings})
