"""Tiny transformers and pipelines of HunyuanVideo, Kandinsky, EasyAnimate and Motif-Video; as in `wan_family`."""

import diffusers
import numpy as np
import PIL.Image
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLMagvit,
    AutoencoderKLWan,
    ClassifierFreeGuidance,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoTransformer3DModel,
    Kandinsky5Transformer3DModel,
    Kandinsky6Transformer3DModel,
    MMAudioVAE,
    MMAudioVocoder,
    MotifVideoTransformer3DModel,
)
from diffusers.models.attention_dispatch import AttentionBackendName
from support.tiny import noise
from torch import Tensor, nn

CHANNELS, TEXT, POOLED, IMAGE = 4, 16, 8, 12  # of latents, text embeddings, pooled ones and image embeddings
GRID = (3, 4, 6)


# -- shared --


def randomise(model: nn.Module, seed: int = 0, std: float = 0.15) -> nn.Module:
    """Give every parameter a random value, so that none is zero by initialisation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=std, generator=generator)
            if "norm" in name and name.endswith(("weight", "gamma")):
                parameter.add_(1)
    return model.eval()


def ragged_mask(batch: int, length: int) -> Tensor:
    """A mask of text whose last sample is shorter."""
    mask = torch.ones(batch, length)
    mask[-1, -2:] = 0
    return mask


def picture(width: int = 48, height: int = 32) -> PIL.Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def flow_scheduler(**config) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**{"shift": 7.0, **config})


def hunyuan_vae() -> AutoencoderKLHunyuanVideo:
    """8 × in space, 4 × in time. Its VAE is Kandinsky 5's and Kandinsky 6's as well."""
    torch.manual_seed(0)
    return AutoencoderKLHunyuanVideo(
        latent_channels=CHANNELS, down_block_types=("HunyuanVideoDownBlock3D",) * 4, norm_num_groups=4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4, block_out_channels=(8,) * 4, layers_per_block=1,
    ).eval()  # fmt: skip


def hunyuan15_vae() -> AutoencoderKLHunyuanVideo15:
    """4 × in space, 2 × in time."""
    torch.manual_seed(0)
    return AutoencoderKLHunyuanVideo15(
        latent_channels=CHANNELS, block_out_channels=(16, 16), layers_per_block=1, spatial_compression_ratio=4,
        temporal_compression_ratio=2, downsample_match_channel=False, upsample_match_channel=False,
    ).eval()  # fmt: skip


def magvit_vae() -> AutoencoderKLMagvit:
    """8 × in space, 4 × in time."""
    torch.manual_seed(0)
    vae = AutoencoderKLMagvit(
        latent_channels=CHANNELS, block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=2,
        down_block_types=("SpatialDownBlock3D", "SpatialTemporalDownBlock3D", "SpatialTemporalDownBlock3D",
                          "SpatialTemporalDownBlock3D"),
        up_block_types=("SpatialUpBlock3D", "SpatialTemporalUpBlock3D", "SpatialTemporalUpBlock3D",
                        "SpatialTemporalUpBlock3D"),
        spatial_group_norm=False,
    ).eval()  # fmt: skip
    vae.register_to_config(cache_mag_vae=False)  # which the inpaint pipeline reads, though it is no argument
    return vae


def wan_vae() -> AutoencoderKLWan:
    """8 × in space, 4 × in time; a mean and a deviation for each channel."""
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=3, z_dim=CHANNELS, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[-0.7, 0.2, 0.4, -0.1], latents_std=[2.8, 1.5, 2.1, 0.9],
    ).eval()  # fmt: skip


# -- HunyuanVideo --


def _hunyuan(condition: str | None = None, in_channels: int = CHANNELS, **config) -> HunyuanVideoTransformer3DModel:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "num_single_layers": 2}
    text = {"text_embed_dim": TEXT, "pooled_projection_dim": POOLED, "num_refiner_layers": 1}
    model = HunyuanVideoTransformer3DModel(
        in_channels=in_channels, out_channels=CHANNELS, rope_axes_dim=(4, 6, 6), image_condition_type=condition,
        **{**sizes, **text, **config},
    )  # fmt: skip
    return randomise(model)


def _hunyuan_inputs(in_channels: int = CHANNELS, guidance: bool = True) -> dict:
    inputs = {
        "hidden_states": noise(2, in_channels, 3, 8, 12),
        "timestep": torch.tensor([500.0, 500.0]),
        "encoder_hidden_states": noise(2, 7, TEXT, seed=1),
        "encoder_attention_mask": ragged_mask(2, 7),
        "pooled_projections": noise(2, POOLED, seed=2),
        "return_dict": False,
    }
    return {**inputs, "guidance": torch.full((2,), 6000.0)} if guidance else inputs


def hunyuan_video():
    return _hunyuan(), _hunyuan_inputs()


def hunyuan_video_token_replace():
    """The image-to-video variant that modulates the first frame's tokens apart."""
    return _hunyuan("token_replace"), _hunyuan_inputs()


def hunyuan_video_latent_concat():
    """The image-to-video variant that takes the image as further channels; SkyReels' is like it, without a mask."""
    channels = 2 * CHANNELS + 1
    return _hunyuan("latent_concat", channels, guidance_embeds=False), _hunyuan_inputs(channels, guidance=False)


def _hunyuan_call() -> dict:
    """Both kinds of guidance on: embedded (guidance_scale) and a second, negative pass (true_cfg_scale)."""
    return {
        "prompt_embeds": noise(1, 7, TEXT, seed=1),
        "pooled_prompt_embeds": noise(1, POOLED, seed=2),
        "prompt_attention_mask": torch.ones(1, 7),
        "negative_prompt_embeds": noise(1, 7, TEXT, seed=3),
        "negative_pooled_prompt_embeds": noise(1, POOLED, seed=4),
        "negative_prompt_attention_mask": torch.ones(1, 7),
        "true_cfg_scale": 2.0,
        "guidance_scale": 6.0,
        "height": 32,
        "width": 48,
        "num_frames": 9,
        "num_inference_steps": 2,
        "output_type": "np",
    }


def _hunyuan_parts(transformer: nn.Module) -> dict:
    texts = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    return {"transformer": transformer, "vae": hunyuan_vae(), "scheduler": flow_scheduler(), **texts}


def hunyuan_video_pipeline():
    return diffusers.HunyuanVideoPipeline(**_hunyuan_parts(hunyuan_video()[0])), _hunyuan_call()


def hunyuan_video_token_replace_pipeline():
    parts = _hunyuan_parts(hunyuan_video_token_replace()[0])
    pipe = diffusers.HunyuanVideoImageToVideoPipeline(**parts, image_processor=None)
    return pipe, {**_hunyuan_call(), "image": picture()}


def hunyuan_video_latent_concat_pipeline():
    """13 frames, of which the pipeline drops the first 4."""
    parts = _hunyuan_parts(hunyuan_video_latent_concat()[0])
    pipe = diffusers.HunyuanVideoImageToVideoPipeline(**parts, image_processor=None)
    return pipe, {**_hunyuan_call(), "image": picture(), "num_frames": 13}


def hunyuan_skyreels_pipeline():
    parts = _hunyuan_parts(_hunyuan(in_channels=2 * CHANNELS))
    return diffusers.HunyuanSkyreelsImageToVideoPipeline(**parts), {**_hunyuan_call(), "image": picture()}


# -- FramePack --


def framepack():
    """62 tokens of history (8 at 4 ×, 6 at 2 ×, 48 clean) in front of the 72 of the section."""
    model = HunyuanVideoFramepackTransformer3DModel(
        in_channels=CHANNELS, out_channels=CHANNELS, num_attention_heads=2, attention_head_dim=16, num_layers=2,
        num_single_layers=2, num_refiner_layers=1, text_embed_dim=TEXT, pooled_projection_dim=POOLED,
        rope_axes_dim=(4, 6, 6), has_image_proj=True, image_proj_dim=IMAGE, has_clean_x_embedder=True,
    )  # fmt: skip
    history = {
        "image_embeds": noise(2, 5, IMAGE, seed=4),
        "indices_latents": torch.arange(1, 4),
        "latents_clean": noise(2, CHANNELS, 2, 8, 12, seed=5),
        "indices_latents_clean": torch.tensor([0, 4]),
        "latents_history_2x": noise(2, CHANNELS, 2, 8, 12, seed=6),
        "indices_latents_history_2x": torch.arange(5, 7),
        "latents_history_4x": noise(2, CHANNELS, 16, 8, 12, seed=7),
        "indices_latents_history_4x": torch.arange(7, 23),
    }
    return randomise(model), {**_hunyuan_inputs(), **history}


def siglip():
    """A vision model of width IMAGE with its image processor."""
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=IMAGE, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    torch.manual_seed(0)
    return SiglipVisionModel(config).eval(), SiglipImageProcessor(size={"height": 16, "width": 16})


def framepack_pipeline():
    """Two sections of 3 latent frames, so that the VAE decodes twice."""
    encoder, extractor = siglip()
    parts = _hunyuan_parts(framepack()[0])
    pipe = diffusers.HunyuanVideoFramepackPipeline(**parts, image_encoder=encoder, feature_extractor=extractor)
    return pipe, {**_hunyuan_call(), "image": picture(), "num_frames": 18, "latent_window_size": 3}


# -- HunyuanVideo 1.5 --


def hunyuan_video15():
    """Channels are latents, image latents and mask."""
    model = HunyuanVideo15Transformer3DModel(
        in_channels=2 * CHANNELS + 1, out_channels=CHANNELS, num_attention_heads=2, attention_head_dim=16, num_layers=2,
        num_refiner_layers=1, mlp_ratio=2.0, text_embed_dim=TEXT, text_embed_2_dim=POOLED, image_embed_dim=IMAGE,
        rope_axes_dim=(4, 6, 6), target_size=16,
    )  # fmt: skip
    inputs = {
        "hidden_states": noise(2, 2 * CHANNELS + 1, *GRID),
        "timestep": torch.tensor([500.0, 500.0]),
        "encoder_hidden_states": noise(2, 7, TEXT, seed=1),
        "encoder_attention_mask": ragged_mask(2, 7),
        "encoder_hidden_states_2": noise(2, 5, POOLED, seed=2),
        "encoder_attention_mask_2": ragged_mask(2, 5),
        "image_embeds": noise(2, 3, IMAGE, seed=3),
        "return_dict": False,
    }
    return randomise(model), inputs


def _hunyuan15_parts() -> dict:
    texts = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    guider = ClassifierFreeGuidance(guidance_scale=3.0)
    models = {"transformer": hunyuan_video15()[0], "vae": hunyuan15_vae()}
    return {**models, "scheduler": flow_scheduler(), "guider": guider, **texts}


def _hunyuan15_call() -> dict:
    call = {"num_frames": 5, "num_inference_steps": 2, "output_type": "np"}
    for i, sign in enumerate(("", "negative_")):
        call |= {f"{sign}prompt_embeds": noise(1, 7, TEXT, seed=i), f"{sign}prompt_embeds_mask": torch.ones(1, 7)}
        call |= {f"{sign}prompt_embeds_2": noise(1, 5, POOLED, seed=9 + i)}
        call |= {f"{sign}prompt_embeds_mask_2": torch.ones(1, 5)}
    return call


def hunyuan_video15_pipeline():
    return diffusers.HunyuanVideo15Pipeline(**_hunyuan15_parts()), {**_hunyuan15_call(), "height": 16, "width": 24}


def hunyuan_video15_image_pipeline():
    """The image's shape chooses the video's: 12 × 20 pixels of a target of 16²."""
    encoder, extractor = siglip()
    parts = {**_hunyuan15_parts(), "image_encoder": encoder, "feature_extractor": extractor}
    return diffusers.HunyuanVideo15ImageToVideoPipeline(**parts), {**_hunyuan15_call(), "image": picture(40, 24)}


# -- Kandinsky 5 --


def _kandinsky5(visual_cond: bool = False, **config) -> Kandinsky5Transformer3DModel:
    model = Kandinsky5Transformer3DModel(
        in_visual_dim=CHANNELS, out_visual_dim=CHANNELS, in_text_dim=TEXT, in_text_dim2=POOLED, time_dim=24,
        model_dim=32, ff_dim=48, num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 6, 6), visual_cond=visual_cond,
        **config,
    )  # fmt: skip
    return randomise(model)


def _kandinsky5_inputs(channels: int, grid: tuple[int, int, int] = GRID) -> dict:
    f, h, w = grid
    return {
        "hidden_states": noise(2, f, 2 * h, 2 * w, channels),
        "encoder_hidden_states": noise(2, 7, TEXT, seed=1),
        "timestep": torch.tensor([500.0, 500.0]),
        "pooled_projections": noise(2, POOLED, seed=2),
        "visual_rope_pos": [torch.arange(n) for n in grid],
        "text_rope_pos": torch.arange(7),
        "return_dict": False,
    }


def kandinsky5():
    return _kandinsky5(), _kandinsky5_inputs(CHANNELS)


def kandinsky5_cond():
    """With the channels of visual conditioning, as the image-to-video models (and the Pro text-to-video ones)."""
    return _kandinsky5(True), _kandinsky5_inputs(2 * CHANNELS + 1)


NABLA = {
    "attention_type": "nabla", "attention_P": 0.9, "attention_wT": 3, "attention_wW": 3, "attention_wH": 3,
    "attention_add_sta": True, "attention_method": "topcdf",
}  # fmt: skip


def kandinsky5_nabla():
    """Sparse attention: tokens are in blocks of 8 × 8, which a grid must be divisible by. Eager flex attention."""
    model, grid = _kandinsky5(**NABLA), (2, 8, 16)
    for processor in model.attn_processors.values():  # set_attention_backend("flex") sets it for every model
        processor._attention_backend = AttentionBackendName.FLEX  # no other one takes the mask
    sta = diffusers.Kandinsky5T2VPipeline.fast_sta_nabla(2, 1, 2, 3, 3, 3, device="cpu")
    sparse = {"sta_mask": sta[None, None], "attention_type": "nabla", "to_fractal": True, "P": 0.9}
    return model, {**_kandinsky5_inputs(CHANNELS, grid), "sparse_params": sparse}


def _kandinsky_parts(transformer: nn.Module) -> dict:
    texts = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    return {"transformer": transformer, "vae": hunyuan_vae(), "scheduler": flow_scheduler(), **texts}


def _kandinsky5_call() -> dict:
    call = {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": 2, "guidance_scale": 4.0}
    for i, sign in enumerate(("", "negative_")):
        call |= {f"{sign}prompt_embeds_qwen": noise(1, 7, TEXT, seed=i)}
        call |= {f"{sign}prompt_embeds_clip": noise(1, POOLED, seed=9 + i)}
        call |= {f"{sign}prompt_cu_seqlens": torch.tensor([0, 7], dtype=torch.int32)}
    return {**call, "output_type": "np"}


def kandinsky5_pipeline():
    return diffusers.Kandinsky5T2VPipeline(**_kandinsky_parts(kandinsky5()[0])), _kandinsky5_call()


def kandinsky5_image_pipeline():
    """17 frames: with fewer than 5 latent ones the pipeline's own normalisation of the first 4 gives NaN."""
    pipe = diffusers.Kandinsky5I2VPipeline(**_kandinsky_parts(kandinsky5_cond()[0]))
    return pipe, {**_kandinsky5_call(), "image": picture(), "num_frames": 17}


# -- Kandinsky 6 --


def kandinsky6(audio: bool = True):
    """Video 32 wide and audio 16 wide, with the options of the released checkpoints. Heads are equally wide."""
    model = Kandinsky6Transformer3DModel(
        in_visual_dim=CHANNELS, out_visual_dim=CHANNELS, in_text_dim=TEXT, in_text_dim2=POOLED, time_dim=24,
        model_dim=32, ff_dim=48, num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 6, 6), in_audio_dim=3,
        out_audio_dim=3, model_dim_a=16, time_dim_a=20, ff_dim_a=24, axes_dims_a=(4, 6, 6), text_token_padding=True,
        ca_rope=True, cross_gates=True, fix_modulation=True, visual_token_type_num_embeddings=2,
    )  # fmt: skip
    f, h, w = GRID
    inputs = {
        "hidden_states": noise(2, f, 2 * h, 2 * w, 2 * CHANNELS + 1),
        "encoder_hidden_states": noise(2, 7, TEXT, seed=1),
        "pooled_projections": noise(2, POOLED, seed=2),
        "timestep": torch.tensor([500.0, 500.0]),
        "return_dict": False,
    }
    return randomise(model), {**inputs, "audio_hidden_states": noise(2, 5, 3, seed=3)} if audio else inputs


def _kandinsky6_parts() -> dict:
    """Audio of 64 Hz samples a latent frame: the VAE's hop of 32, twice."""
    torch.manual_seed(0)
    audio_vae = MMAudioVAE(
        mel_bins=16, latent_channels=3, hidden_channels=8, channel_multipliers=(1, 1, 1), layers_per_block=1,
        sample_rate=1600, n_fft=64, hop_length=32,
    ).eval()  # fmt: skip
    vocoder = MMAudioVocoder(
        num_mels=16, upsample_initial_channel=16, upsample_rates=(8, 4), upsample_kernel_sizes=(16, 8),
        resblock_kernel_sizes=(3,), resblock_dilation_sizes=((1, 3, 5),),
    ).eval()  # fmt: skip
    return {**_kandinsky_parts(kandinsky6()[0]), "audio_vae": audio_vae, "vocoder": vocoder}


def _kandinsky6_call() -> dict:
    call = {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": 2, "guidance_scale": 4.0}
    for i, sign in enumerate(("", "negative_")):
        call |= {f"{sign}prompt_embeds": noise(1, 7, TEXT, seed=i)}
        call |= {f"{sign}pooled_prompt_embeds": noise(1, POOLED, seed=9 + i)}
    return {**call, "output_type": "np"}


def kandinsky6_pipeline():
    return diffusers.Kandinsky6TI2VAPipeline(**_kandinsky6_parts()), _kandinsky6_call()


def kandinsky6_image_pipeline():
    """With a picture, whose latents are one more frame at the end of what the transformer sees."""
    return diffusers.Kandinsky6TI2VAPipeline(**_kandinsky6_parts()), {**_kandinsky6_call(), "image": picture()}


# -- EasyAnimate --


def _easyanimate(in_channels: int = CHANNELS, **config) -> EasyAnimateTransformer3DModel:
    """The second block shares its feed-forward between video and text (mmdit_layers)."""
    model = EasyAnimateTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=in_channels, out_channels=CHANNELS, patch_size=2,
        num_layers=2, mmdit_layers=1, time_embed_dim=24, text_embed_dim=TEXT, **config,
    )  # fmt: skip
    return randomise(model)


def easyanimate():
    inputs = {
        "hidden_states": noise(2, CHANNELS, 3, 8, 12),
        "timestep": torch.tensor([500.0, 500.0]),
        "encoder_hidden_states": noise(2, 7, TEXT, seed=1),
        "return_dict": False,
    }
    return _easyanimate(), inputs


def easyanimate_inpaint():
    """A mask of one channel and the masked video's latents, given apart from the latents."""
    inputs = {**easyanimate()[1], "inpaint_latents": noise(2, CHANNELS + 1, 3, 8, 12, seed=2)}
    return _easyanimate(2 * CHANNELS + 1), inputs


def _easyanimate_pipeline(cls: type, transformer: nn.Module):
    parts = {"transformer": transformer, "vae": magvit_vae(), "scheduler": flow_scheduler(shift=1.0)}
    call = {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": 2, "guidance_scale": 4.0}
    for i, sign in enumerate(("", "negative_")):
        call |= {f"{sign}prompt_embeds": noise(1, 7, TEXT, seed=i), f"{sign}prompt_attention_mask": torch.ones(1, 7)}
    return cls(**parts, text_encoder=None, tokenizer=None), {**call, "output_type": "np"}


def easyanimate_pipeline():
    return _easyanimate_pipeline(diffusers.EasyAnimatePipeline, easyanimate()[0])


def easyanimate_inpaint_pipeline():
    """Image to video: all frames but the first are masked."""
    pipe, call = _easyanimate_pipeline(diffusers.EasyAnimateInpaintPipeline, easyanimate_inpaint()[0])
    video = torch.rand(1, 3, 9, 32, 48, generator=torch.Generator().manual_seed(0))
    mask = torch.full((1, 1, 9, 32, 48), 255.0)
    mask[:, :, 0] = 0
    return pipe, {**call, "video": video, "mask_video": mask}


# -- Motif-Video --


def motif_video(image_embeds: bool = True):
    """Two dual blocks, then three single ones, of which the last is of the decoder."""
    model = MotifVideoTransformer3DModel(
        in_channels=2 * CHANNELS + 1, out_channels=CHANNELS, num_attention_heads=2, attention_head_dim=16, num_layers=2,
        num_single_layers=3, num_decoder_layers=1, text_embed_dim=TEXT, image_embed_dim=IMAGE, rope_axes_dim=(4, 6, 6),
        enable_text_cross_attention_dual=True, enable_text_cross_attention_single=True,
    )  # fmt: skip
    inputs = {
        "hidden_states": noise(2, 2 * CHANNELS + 1, 3, 8, 12),
        "timestep": torch.tensor([500.0, 500.0]),
        "encoder_hidden_states": noise(2, 7, TEXT, seed=1),
        "encoder_attention_mask": ragged_mask(2, 7).bool(),
        "return_dict": False,
    }
    return randomise(model), {**inputs, "image_embeds": noise(2, 4, IMAGE, seed=2)} if image_embeds else inputs


def _motif_parts(**parts) -> dict:
    model = {"transformer": motif_video()[0], "vae": wan_vae(), "scheduler": flow_scheduler()}
    texts = {"text_encoder": None, "tokenizer": None, "guider": ClassifierFreeGuidance(guidance_scale=3.0)}
    return {**model, **texts, **parts}


def _motif_call() -> dict:
    call = {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": 2, "output_type": "np"}
    for i, sign in enumerate(("", "negative_")):
        call |= {f"{sign}prompt_embeds": noise(1, 7, TEXT, seed=i)}
        call |= {f"{sign}prompt_attention_mask": torch.ones(1, 7, dtype=torch.bool)}
    return call


def motif_video_pipeline():
    return diffusers.MotifVideoPipeline(**_motif_parts()), _motif_call()


def t5gemma():
    """A text encoder with a vision tower of width IMAGE, of which the pipeline takes the image embeddings."""
    from transformers import SiglipVisionConfig, T5Gemma2EncoderConfig, T5Gemma2TextConfig
    from transformers.models.t5gemma2.modeling_t5gemma2 import T5Gemma2Encoder

    text = T5Gemma2TextConfig(
        hidden_size=TEXT, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
        intermediate_size=16, vocab_size=64, max_position_embeddings=64, dropout_rate=0.0,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=IMAGE, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    torch.manual_seed(0)
    return T5Gemma2Encoder(T5Gemma2EncoderConfig(text_config=text, vision_config=vision, mm_tokens_per_image=4)).eval()


def motif_video_image_pipeline():
    """`prompt` must be given, though it may be None."""
    parts = _motif_parts(text_encoder=t5gemma(), feature_extractor=siglip()[1])
    return diffusers.MotifVideoImage2VideoPipeline(**parts), {**_motif_call(), "image": picture(), "prompt": None}
