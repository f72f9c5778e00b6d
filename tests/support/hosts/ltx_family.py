"""Tiny transformers and pipelines of LTX-Video, LTX-2, Mochi, Allegro and Latte; as in `wan_family`."""

import torch
from support.tiny import noise
from torch import Tensor, nn

GRID = (3, 4, 6)  # frames, height, width of the token grid
TEXT = 5  # text tokens


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomise(module: nn.Module, seed: int = 0, std: float = 0.1) -> nn.Module:
    """Give every parameter a random value, so that no head is zero; gains of norms stay near one."""
    generator = seeded(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(std=std, generator=generator)
            if "norm" in name and name.endswith("weight") and parameter.ndim == 1:
                parameter.add_(1)
    return module.eval()


def text_mask(batch: int) -> Tensor:
    """Last text token of the first sample is padding."""
    mask = torch.ones(batch, TEXT)
    mask[0, -1] = 0
    return mask


# ---- transformers ---------------------------------------------------------------------------------------------------


def ltx(batch: int = 2, grid=GRID, channels: int = 8):
    """LTX-Video 0.9.x: packed latents (b, f·h·w, c); the grid is in num_frames, height, width."""
    from diffusers import LTXVideoTransformer3DModel

    model = LTXVideoTransformer3DModel(
        in_channels=channels,
        out_channels=channels,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=16,
    )
    f, h, w = grid
    inputs = {
        "hidden_states": noise(batch, f * h * w, channels),
        "encoder_hidden_states": noise(batch, TEXT, 16, seed=1),
        "timestep": torch.full((batch,), 500.0),
        "encoder_attention_mask": text_mask(batch),
        "num_frames": f,
        "height": h,
        "width": w,
        "rope_interpolation_scale": (8 / 25, 32, 32),
        "return_dict": False,
    }
    return randomise(model), inputs


def ltx2(batch: int = 2, grid=GRID, channels: int = 4, **config):
    """LTX-2.0: packed video and audio latents. config: cross_attn_mod=True and audio_cross_attn_mod=True are 2.3."""
    from diffusers import LTX2VideoTransformer3DModel

    sizes = {
        "in_channels": channels,
        "out_channels": channels,
        "num_attention_heads": 4,
        "attention_head_dim": 8,
        "cross_attention_dim": 32,
        "vae_scale_factors": (4, 8, 8),  # those of `ltx2_vae`
        "audio_in_channels": 4,
        "audio_out_channels": 4,
        "audio_num_attention_heads": 4,
        "audio_attention_head_dim": 4,
        "audio_cross_attention_dim": 16,
        "num_layers": 2,
        "caption_channels": 16,
        "rope_double_precision": False,
        "rope_type": "split",
        "perturbed_attn": True,
    }
    model = LTX2VideoTransformer3DModel(**{**sizes, **config})
    f, h, w = grid
    inputs = {
        "hidden_states": noise(batch, f * h * w, channels),
        "audio_hidden_states": noise(batch, 7, 4, seed=1),
        "encoder_hidden_states": noise(batch, TEXT, 16, seed=2),
        "audio_encoder_hidden_states": noise(batch, TEXT, 16, seed=3),
        "timestep": torch.full((batch,), 500.0),
        "sigma": torch.full((batch,), 500.0),
        "encoder_attention_mask": text_mask(batch),
        "audio_encoder_attention_mask": text_mask(batch),
        "num_frames": f,
        "height": h,
        "width": w,
        "audio_num_frames": 7,
        "return_dict": False,
    }
    return randomise(model), inputs


def mochi(batch: int = 2, grid=GRID):
    """Mochi 1: bcfhw latents of 12 channels."""
    from diffusers import MochiTransformer3DModel

    model = MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=3,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=32,
        time_embed_dim=4,
        max_sequence_length=TEXT,
    )
    f, h, w = grid
    inputs = {
        "hidden_states": noise(batch, 12, f, 2 * h, 2 * w),
        "encoder_hidden_states": noise(batch, TEXT, 32, seed=1),
        "timestep": torch.full((batch,), 500.0),
        "encoder_attention_mask": text_mask(batch).bool(),
        "return_dict": False,
    }
    return randomise(model), inputs


def allegro_rope(head_dim: int, grid) -> tuple:
    """What AllegroPipeline._prepare_rotary_positional_embeddings gives: frequencies, and position ids a token."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro

    f, h, w = grid
    *freqs, grid_t, grid_h, grid_w = get_3d_rotary_pos_embed_allegro(
        embed_dim=head_dim, crops_coords=((0, 0), (h, w)), grid_size=(h, w), temporal_size=f
    )
    positions = torch.cartesian_prod(*(axis.long() for axis in (grid_t, grid_h, grid_w)))
    return tuple(freqs), tuple(positions.T.reshape(3, 1, -1).contiguous())


def allegro(batch: int = 2, grid=GRID):
    """Allegro: bcfhw latents; head width a multiple of 6 for its rotary embedding, so 48 wide. Text is (b, 1, l, d)."""
    from diffusers import AllegroTransformer3DModel

    f, h, w = grid
    model = AllegroTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        cross_attention_dim=48,
        sample_height=2 * h,
        sample_width=2 * w,
        sample_frames=f,
        caption_channels=24,
    )
    inputs = {
        "hidden_states": noise(batch, 4, f, 2 * h, 2 * w),
        "encoder_hidden_states": noise(batch, 1, TEXT, 24, seed=1),
        "timestep": torch.full((batch,), 500),
        "encoder_attention_mask": text_mask(batch),
        "image_rotary_emb": allegro_rope(12, grid),
        "return_dict": False,
    }
    return randomise(model), inputs


def latte(batch: int = 2, grid=GRID):
    """Latte: bcfhw latents; the config's video_length must be the number of latent frames (or the latter 1)."""
    from diffusers import LatteTransformer3DModel

    f, h, w = grid
    model = LatteTransformer3DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=16,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=32,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        video_length=f,
    )
    inputs = {
        "hidden_states": noise(batch, 4, f, 2 * h, 2 * w),
        "encoder_hidden_states": noise(batch, TEXT, 16, seed=1),
        "timestep": torch.full((batch,), 500),
        "return_dict": False,
    }
    return randomise(model), inputs


# ---- parts of pipelines ---------------------------------------------------------------------------------------------


def set_statistics(vae: nn.Module) -> nn.Module:
    """Give the buffers latents_mean and latents_std values that show in the latents."""
    channels = vae.latents_mean.numel()
    vae.latents_mean.copy_(torch.linspace(-0.5, 0.5, channels))
    vae.latents_std.copy_(torch.linspace(0.5, 1.5, channels))
    return vae


def ltx_vae(timestep_conditioning: bool = False) -> nn.Module:
    """8 channels, 4 times smaller in time and 4 times in space (real: 128 channels, 8 and 32)."""
    from diffusers import AutoencoderKLLTXVideo

    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=timestep_conditioning,
        patch_size=1,
        patch_size_t=1,
        scaling_factor=0.8,
        encoder_causal=True,
        decoder_causal=False,
    )
    return set_statistics(randomise(vae))


def ltx2_vae(timestep_conditioning: bool = False) -> nn.Module:
    """4 channels, 4 times smaller in time and 8 times in space (real: 128 channels, 8 and 32)."""
    from diffusers import AutoencoderKLLTX2Video

    vae = AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True),
        decoder_inject_noise=(False,) * 3,
        downsample_type=("spatiotemporal", "spatiotemporal"),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
        timestep_conditioning=timestep_conditioning,
        patch_size=2,
        patch_size_t=1,
        scaling_factor=0.8,
        encoder_causal=True,
        decoder_causal=False,
    )
    return set_statistics(randomise(vae))


def flow_scheduler(**config):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**config)


def embeddings(width: int, prompts: int = 1, masks: bool = True) -> dict:
    """prompt_embeds, negative_prompt_embeds and their masks; no text encoder is needed with them."""
    call = {
        "prompt_embeds": noise(prompts, TEXT, width, seed=11),
        "negative_prompt_embeds": noise(prompts, TEXT, width, seed=12),
    }
    if masks:
        call |= {"prompt_attention_mask": torch.ones(prompts, TEXT, dtype=torch.bool)}
        call |= {"negative_prompt_attention_mask": torch.ones(prompts, TEXT, dtype=torch.bool)}
    return call


def sampling(**more) -> dict:
    return {"num_inference_steps": 2, "generator": seeded(), "output_type": "np", **more}


def text_parts(width: int):
    """A tiny T5 and a tokenizer of words, for pipelines that insist on reading the prompt."""
    from transformers import T5Config, T5EncoderModel

    from lavieid_adapters.puppets.words import WordTokenizer

    tokenizer = WordTokenizer.of(["a", "person", "smiles", "waves", "ugly"], TEXT)
    config = T5Config(d_model=width, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=len(tokenizer))
    return randomise(T5EncoderModel(config)), tokenizer


def picture(height: int, width: int):
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


# ---- pipelines ------------------------------------------------------------------------------------------------------


def _ltx(cls, text_encoder=None, tokenizer=None, scheduler=None, timestep_conditioning: bool = False):
    pipe = cls(
        scheduler=scheduler or flow_scheduler(),
        vae=ltx_vae(timestep_conditioning),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=ltx()[0],
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


_LTX_SIZE = {"height": 32, "width": 64, "num_frames": 9}  # 3 × 8 × 16 tokens


def ltx_pipeline(**parts):
    from diffusers import LTXPipeline

    return _ltx(LTXPipeline, **parts), {**embeddings(16), **_LTX_SIZE, "guidance_scale": 3.0, **sampling()}


def ltx_image_to_video_pipeline(**parts):
    from diffusers import LTXImageToVideoPipeline

    call = {"image": picture(32, 64), **embeddings(16), **_LTX_SIZE, "guidance_scale": 3.0, **sampling()}
    return _ltx(LTXImageToVideoPipeline, **parts), call


def ltx_condition_pipeline(**parts):
    """Two conditions: the one at frame 0 replaces tokens, the one at frame 4 puts 8 × 16 tokens ahead of the video."""
    from diffusers import LTXConditionPipeline
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

    images = [LTXVideoCondition(image=picture(32, 64), frame_index=i) for i in (0, 4)]
    call = {"conditions": images, **embeddings(16), **_LTX_SIZE, "guidance_scale": 3.0, **sampling()}
    return _ltx(LTXConditionPipeline, **parts), call


def ltx_long_pipeline(scheduler=None):
    """Two windows of 3 latent frames that share 1; reads its prompts itself. A photo adds a latent frame a window."""
    from diffusers import LTXEulerAncestralRFScheduler, LTXI2VLongMultiPromptPipeline

    text_encoder, tokenizer = text_parts(16)
    pipe = _ltx(LTXI2VLongMultiPromptPipeline, text_encoder, tokenizer, scheduler or LTXEulerAncestralRFScheduler())
    call = {
        "prompt": "a person smiles | a person waves",
        "negative_prompt": "ugly",
        "cond_image": picture(32, 64),
        **{**_LTX_SIZE, "num_frames": 17},
        "temporal_tile_size": 12,
        "temporal_overlap": 4,
        "guidance_scale": 3.0,
        **sampling(sigmas=[1.0, 0.6, 0.0]),
        "decode_horizontal_tiles": 2,
        "decode_vertical_tiles": 1,
    }
    return pipe, call


def _ltx2(cls, timestep_conditioning: bool = False, **config):
    """An LTX-2 pipeline; `config` is the transformer's."""
    from diffusers import AutoencoderKLLTX2Audio
    from diffusers.pipelines.ltx2 import LTX2TextConnectors
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "num_learnable_registers": None}
    connectors = LTX2TextConnectors(
        caption_channels=16,
        text_proj_in_factor=2,
        **{f"{name}_connector_{key}": value for name in ("video", "audio") for key, value in sizes.items()},
        connector_rope_base_seq_len=32,
        rope_double_precision=False,
        rope_type="split",
    )
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=4,
        output_channels=2,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=None,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        mid_block_add_attention=False,
        mel_bins=8,
    )
    vocoder = LTX2Vocoder(
        in_channels=16,
        hidden_channels=32,
        out_channels=2,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
        output_sampling_rate=16000,
    )
    pipe = cls(
        scheduler=flow_scheduler(),
        vae=ltx2_vae(timestep_conditioning),
        audio_vae=randomise(audio_vae),
        text_encoder=None,
        tokenizer=None,
        connectors=randomise(connectors),
        transformer=ltx2(**config)[0],
        vocoder=randomise(vocoder),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _ltx2_call(**more) -> dict:
    """All four guidance terms: each step is three forwards, [negative, positive], perturbed, modalities isolated."""
    guidance = {"guidance_scale": 3.0, "stg_scale": 1.0, "modality_scale": 3.0, "spatio_temporal_guidance_blocks": [1]}
    sizes = {"height": 64, "width": 96, "num_frames": 9}  # 3 × 8 × 12 tokens
    return {**embeddings(32), **sizes, **guidance, **sampling(**more)}


def ltx2_pipeline(**parts):
    from diffusers import LTX2Pipeline

    return _ltx2(LTX2Pipeline, **parts), _ltx2_call()


def ltx2_image_to_video_pipeline(**parts):
    from diffusers import LTX2ImageToVideoPipeline

    return _ltx2(LTX2ImageToVideoPipeline, **parts), _ltx2_call(image=picture(64, 96), image_crf=0)


def ltx2_condition_pipeline(**parts):
    """The second condition appends 8 × 12 tokens behind the video."""
    from diffusers import LTX2ConditionPipeline
    from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

    conditions = [LTX2VideoCondition(frames=picture(64, 96), index=i, crf=0) for i in (0, 1)]
    return _ltx2(LTX2ConditionPipeline, **parts), _ltx2_call(conditions=conditions)


def ltx2_in_context_pipeline(**parts):
    """A keyframe (8 × 12 tokens) and a reference of half the size (3 × 4 × 6 tokens) behind the video."""
    from diffusers import LTX2InContextPipeline
    from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
    from diffusers.pipelines.ltx2.pipeline_ltx2_ic_lora import LTX2ReferenceCondition

    call = _ltx2_call(
        conditions=[LTX2VideoCondition(frames=picture(64, 96), index=1, crf=0)],
        reference_conditions=[LTX2ReferenceCondition(frames=[picture(64, 96)] * 9)],
        reference_downscale_factor=2,
        conditioning_attention_strength=0.5,
    )
    return _ltx2(LTX2InContextPipeline, **parts), call


def ltx2_hdr_pipeline(**parts):
    from diffusers import LTX2HDRPipeline
    from diffusers.pipelines.ltx2.pipeline_ltx2_hdr_lora import LTX2HDRReferenceCondition

    reference = LTX2HDRReferenceCondition(frames=[picture(64, 96)] * 9)
    return _ltx2(LTX2HDRPipeline, **parts), _ltx2_call(reference_conditions=[reference])


def mochi_pipeline():
    """Height and width must divide by 8, the patch is 2, frames are 6 k + 1; timesteps rise from 0 to 1000."""
    from diffusers import AutoencoderKLMochi, MochiPipeline

    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),  # its group norms have 32 groups
        decoder_block_out_channels=(32, 32, 32, 32),
        latent_channels=12,
        layers_per_block=(1,) * 5,
        scaling_factor=0.8,
    )
    pipe = MochiPipeline(
        scheduler=flow_scheduler(invert_sigmas=True),
        vae=randomise(vae),
        text_encoder=None,
        tokenizer=None,
        transformer=mochi()[0],
    )
    pipe.set_progress_bar_config(disable=True)
    size = {"height": 32, "width": 48, "num_frames": 13}  # 3 × 2 × 3 tokens
    return pipe, {**embeddings(32), **size, "guidance_scale": 4.5, **sampling()}


def allegro_pipeline():
    """Its VAE decodes by tiles only, of a fixed size, which is made that of the clip."""
    from diffusers import AllegroPipeline, AutoencoderKLAllegro, EulerAncestralDiscreteScheduler

    vae = AutoencoderKLAllegro(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2, scaling_factor=0.13
    )
    vae.enable_tiling()
    vae.kernel = vae.stride = (12, 64, 96)
    pipe = AllegroPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=randomise(vae),
        transformer=allegro()[0],
        scheduler=EulerAncestralDiscreteScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    size = {"height": 64, "width": 96, "num_frames": 12}  # 3 × 4 × 6 tokens
    return pipe, {**embeddings(24), **size, "negative_prompt": None, "guidance_scale": 6.0, **sampling()}


def latte_pipeline():
    """Its VAE is an image VAE, which decodes `decode_chunk_size` frames a call."""
    from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline

    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(**kinds, block_out_channels=(8, 8), norm_num_groups=2, latent_channels=4)
    pipe = LattePipeline(
        tokenizer=None, text_encoder=None, vae=randomise(vae), transformer=latte()[0], scheduler=DDIMScheduler()
    )
    pipe.set_progress_bar_config(disable=True)
    size = {"height": 16, "width": 24, "video_length": 3}  # 3 × 4 × 6 tokens
    call = {**embeddings(16, masks=False), **size, "negative_prompt": None, "guidance_scale": 5.0, **sampling()}
    return pipe, {**call, "decode_chunk_size": 2}
