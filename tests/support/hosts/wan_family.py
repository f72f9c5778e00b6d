"""Tiny real transformers and pipelines of Wan and its kin.

`name()` gives (model, keywords of a forward of batch 2), `name_pipeline()` (pipe, keywords of a call of few steps).
"""

import diffusers
import numpy as np
import PIL.Image
import torch
from diffusers.schedulers import FlowMapEulerDiscreteScheduler
from support.tiny import noise
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

CHANNELS, TEXT_DIM, IMAGE_DIM, DIM = 4, 16, 32, 64
GRID = (3, 4, 6)
FRAMES, HEIGHT, WIDTH = 9, 32, 48  # 3 latent frames of 4 × 6, so a token grid of 3 × 2 × 3 in the pipelines


# --- parts -----------------------------------------------------------------------------------------------------------


def seeded(build, *args, **kwargs) -> nn.Module:
    """Build a module with seeded random weights, in eval mode; parameters of zero get random values."""
    torch.manual_seed(0)
    module = build(*args, **kwargs)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() > 1 and not parameter.any():
                parameter.normal_(std=0.02)
    return module.eval()


def wan_sizes(**config) -> dict:
    """The configuration that all but WanAnimate2 share."""
    sizes = {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": DIM // 2, "in_channels": CHANNELS,
        "out_channels": CHANNELS, "text_dim": TEXT_DIM, "freq_dim": 32, "ffn_dim": 64, "num_layers": 2,
        "cross_attn_norm": True, "rope_max_seq_len": 32,
    }  # fmt: skip
    return {**sizes, **config}


def wan_inputs(channels: int = CHANNELS, batch: int = 2, grid: tuple[int, int, int] = GRID) -> dict:
    """Keywords of one forward of a "bcfhw" transformer of patch size (1, 2, 2)."""
    f, h, w = grid
    return {
        "hidden_states": noise(batch, channels, f, 2 * h, 2 * w),
        "timestep": torch.tensor([700] * batch),
        "encoder_hidden_states": noise(batch, 5, TEXT_DIM, seed=1),
        "return_dict": False,
    }


def wan_vae(**config) -> diffusers.AutoencoderKLWan:
    """Factor 4 in time and 8 in space, with a mean and a deviation that are not 0 and 1."""
    moments = {"latents_mean": [0.1, -0.2, 0.3, -0.4], "latents_std": [1.5, 2.0, 2.5, 3.0]}
    return seeded(
        diffusers.AutoencoderKLWan, base_dim=3, z_dim=CHANNELS, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True], **moments, **config,
    )  # fmt: skip


def wan_5b_vae() -> diffusers.AutoencoderKLWan:
    """As that of Wan 2.2 5B: factor 16 in space, since it patchifies the pixels by 2."""
    return wan_vae(patch_size=2, is_residual=True, in_channels=12, out_channels=12, scale_factor_spatial=16)


def unipc() -> diffusers.UniPCMultistepScheduler:
    """The scheduler of Wan 2.1's checkpoints; the type that all of the family but AnyFlow declare or use."""
    return diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def image_parts(hidden_size: int = IMAGE_DIM, size: int = 32) -> dict:
    config = CLIPVisionConfig(
        hidden_size=hidden_size, projection_dim=16, num_hidden_layers=2, num_attention_heads=2, image_size=size,
        intermediate_size=32, patch_size=size // 2,
    )  # fmt: skip
    processor = CLIPImageProcessor(size=size, crop_size=size)
    return {"image_encoder": seeded(CLIPVisionModel, config), "image_processor": processor}


def parts(transformer: nn.Module, **others) -> dict:
    """The components that all pipelines take; prompts are given as embeddings."""
    common = {"tokenizer": None, "text_encoder": None, "vae": wan_vae(), "scheduler": unipc()}
    return {**common, "transformer": transformer, **others}


def prompts(**call) -> dict:
    """The arguments that all calls share."""
    common = {
        "prompt_embeds": noise(1, 5, TEXT_DIM, seed=1), "negative_prompt_embeds": noise(1, 5, TEXT_DIM, seed=2),
        "height": HEIGHT, "width": WIDTH, "num_frames": FRAMES, "num_inference_steps": 2, "guidance_scale": 5.0,
        "output_type": "np",
    }  # fmt: skip
    return {**common, **call}


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.RandomState(seed).randint(0, 255, (height, width, 3), dtype=np.uint8))


def pictures(count: int, height: int = HEIGHT, width: int = WIDTH) -> list[PIL.Image.Image]:
    return [picture(height, width, seed) for seed in range(count)]


# --- models ----------------------------------------------------------------------------------------------------------


def wan():
    return seeded(diffusers.WanTransformer3DModel, **wan_sizes()), wan_inputs()


def wan_expand_timesteps():
    """As Wan 2.2 5B is called: a timestep a token, 0 in the first frame of image to video."""
    model, inputs = wan()
    timestep = torch.full((2, *GRID), 700.0)
    timestep[:, 0] = 0
    return model, {**inputs, "timestep": timestep.flatten(1)}


def wan_i2v():
    """Wan 2.1's image to video: mask and condition as channels, an image's features before the text's."""
    sizes = wan_sizes(in_channels=2 * CHANNELS + 4, image_dim=IMAGE_DIM, added_kv_proj_dim=DIM)
    inputs = wan_inputs(2 * CHANNELS + 4)
    return seeded(diffusers.WanTransformer3DModel, **sizes), {
        **inputs,
        "encoder_hidden_states_image": noise(2, 5, IMAGE_DIM, seed=3),
    }


def wan_vace():
    sizes = wan_sizes(num_layers=3, vace_layers=[0, 2], vace_in_channels=2 * CHANNELS + 64)
    control = noise(2, 2 * CHANNELS + 64, GRID[0], 2 * GRID[1], 2 * GRID[2], seed=3)
    return seeded(diffusers.WanVACETransformer3DModel, **sizes), {**wan_inputs(), "control_hidden_states": control}


def wan_animate():
    """The first of its 3 latent frames is the reference image's; 2 latent frames are of 5 frames."""
    sizes = wan_sizes(
        in_channels=2 * CHANNELS + 4, latent_channels=CHANNELS, image_dim=IMAGE_DIM, num_layers=4,
        motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16}, motion_encoder_size=16, motion_style_dim=8,
        motion_dim=4, motion_encoder_dim=16, face_encoder_hidden_dim=16, face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
    )  # fmt: skip
    inputs = {
        **wan_inputs(2 * CHANNELS + 4),
        "encoder_hidden_states_image": noise(2, 5, IMAGE_DIM, seed=3),
        "pose_hidden_states": noise(2, CHANNELS, GRID[0] - 1, 2 * GRID[1], 2 * GRID[2], seed=4),
        "face_pixel_values": noise(2, 3, 4 * (GRID[0] - 2) + 1, 16, 16, seed=5),
    }
    return seeded(diffusers.WanAnimateTransformer3DModel, **sizes), inputs


def skyreels():
    return seeded(diffusers.SkyReelsV2Transformer3DModel, **wan_sizes()), wan_inputs()


def skyreels_forcing(sample_info: bool = False):
    """Diffusion forcing: a timestep a latent frame. With sample_info (fps) the real forward fails at batch 2."""
    model = seeded(diffusers.SkyReelsV2Transformer3DModel, **wan_sizes(inject_sample_info=sample_info))
    timestep = torch.tensor([[0, 400, 700]] * 2)
    return model, {**wan_inputs(), "timestep": timestep, "enable_diffusion_forcing": True, "fps": [1, 1]}


def chronoedit():
    """Its rotary embedding knows 2 latent frames as the ends of 8."""
    sizes = wan_sizes(in_channels=2 * CHANNELS + 4, image_dim=IMAGE_DIM, added_kv_proj_dim=DIM)
    inputs = wan_inputs(2 * CHANNELS + 4)
    return seeded(diffusers.ChronoEditTransformer3DModel, **sizes), {
        **inputs,
        "encoder_hidden_states_image": noise(2, 5, IMAGE_DIM, seed=3),
    }


def anyflow_inputs() -> dict:
    inputs = wan_inputs()
    times = {"timestep": torch.full((2, GRID[0]), 700.0), "r_timestep": torch.full((2, GRID[0]), 300.0)}
    return {**inputs, "hidden_states": inputs["hidden_states"].transpose(1, 2).contiguous(), **times}


def anyflow():
    return seeded(diffusers.AnyFlowTransformer3DModel, **wan_sizes()), anyflow_inputs()


# --- pipelines -------------------------------------------------------------------------------------------------------


def wan_pipeline():
    return diffusers.WanPipeline(**parts(wan()[0])), prompts()


def wan22_pipeline():
    """Two transformers; of 2 steps one is above the boundary and one below."""
    second = seeded(diffusers.WanTransformer3DModel, **wan_sizes(num_layers=3))
    pipe = diffusers.WanPipeline(**parts(wan()[0]), transformer_2=second, boundary_ratio=0.875)
    return pipe, prompts(guidance_scale_2=3.0)


def wan_5b_pipeline():
    pipe = diffusers.WanPipeline(**parts(wan()[0], vae=wan_5b_vae()), expand_timesteps=True)
    return pipe, prompts(height=2 * HEIGHT, width=2 * WIDTH)


def wan_i2v_pipeline():
    return diffusers.WanImageToVideoPipeline(**parts(wan_i2v()[0]), **image_parts()), prompts(image=picture())


def wan22_i2v_pipeline():
    """Wan 2.2 14B: no image encoder."""
    sizes = wan_sizes(in_channels=2 * CHANNELS + 4)
    first = seeded(diffusers.WanTransformer3DModel, **sizes)
    second = seeded(diffusers.WanTransformer3DModel, **{**sizes, "num_layers": 3})
    pipe = diffusers.WanImageToVideoPipeline(**parts(first), transformer_2=second, boundary_ratio=0.875)
    return pipe, prompts(image=picture())


def wan_5b_i2v_pipeline():
    pipe = diffusers.WanImageToVideoPipeline(**parts(wan()[0], vae=wan_5b_vae()), expand_timesteps=True)
    return pipe, prompts(image=picture(), height=2 * HEIGHT, width=2 * WIDTH)


def without(call: dict, *names: str) -> dict:
    return {name: value for name, value in call.items() if name not in names}


def wan_v2v_pipeline():
    call = prompts(video=pictures(FRAMES), num_inference_steps=4, strength=0.5)
    return diffusers.WanVideoToVideoPipeline(**parts(wan()[0])), without(call, "num_frames")


def lucy_pipeline():
    model = seeded(diffusers.WanTransformer3DModel, **wan_sizes(in_channels=2 * CHANNELS))
    pipe = diffusers.LucyEditPipeline(**parts(model, vae=wan_5b_vae()), expand_timesteps=True)
    return pipe, prompts(video=pictures(FRAMES), height=2 * HEIGHT, width=2 * WIDTH)


def wan_vace_pipeline():
    """One reference image, which is one more latent frame."""
    return diffusers.WanVACEPipeline(**parts(wan_vace()[0])), prompts(reference_images=picture())


def wan_animate_pipeline():
    """9 frames in two segments of 5, which share a frame."""
    call = prompts(
        image=picture(), pose_video=pictures(FRAMES), face_video=pictures(FRAMES, 16, 16), segment_frame_length=5
    )
    return diffusers.WanAnimatePipeline(**parts(wan_animate()[0]), **image_parts()), without(call, "num_frames")


def skyreels_pipeline():
    return diffusers.SkyReelsV2Pipeline(**parts(skyreels()[0])), prompts()


def skyreels_i2v_pipeline():
    sizes = wan_sizes(in_channels=2 * CHANNELS + 4, image_dim=IMAGE_DIM, added_kv_proj_dim=DIM)
    model = seeded(diffusers.SkyReelsV2Transformer3DModel, **sizes)
    return diffusers.SkyReelsV2ImageToVideoPipeline(**parts(model), **image_parts()), prompts(image=picture())


def skyreels_df_pipeline():
    call = prompts(prompt=None)
    return diffusers.SkyReelsV2DiffusionForcingPipeline(**parts(skyreels_forcing(sample_info=True)[0])), call


def skyreels_df_async_pipeline():
    """A denoising wave: block i is one step behind block i - 1."""
    pipe, call = skyreels_df_pipeline()
    return pipe, {**call, "ar_step": 1, "causal_block_size": 1}


def skyreels_df_long_pipeline():
    """17 frames in sections of 9, each of which begins with the last 5 frames (2 latent ones) of the one before."""
    pipe, call = skyreels_df_pipeline()
    return pipe, {**call, "num_frames": 17, "base_num_frames": 9, "overlap_history": 5}


def skyreels_df_i2v_pipeline():
    pipe = diffusers.SkyReelsV2DiffusionForcingImageToVideoPipeline(**parts(skyreels_forcing(sample_info=True)[0]))
    return pipe, prompts(image=picture())


def skyreels_df_v2v_pipeline():
    """Continues the video's last 5 frames; long video is its only mode."""
    pipe = diffusers.SkyReelsV2DiffusionForcingVideoToVideoPipeline(**parts(skyreels_forcing(sample_info=True)[0]))
    return pipe, prompts(video=pictures(9), num_frames=17, base_num_frames=9, overlap_history=5)


def chronoedit_pipeline():
    """5 frames, as it is without temporal reasoning."""
    return diffusers.ChronoEditPipeline(**parts(chronoedit()[0]), **image_parts()), prompts(image=picture())


def chronoedit_reasoning_pipeline(reasoning_steps: int = 1):
    """3 latent frames in the first step, and their first and last in the second."""
    pipe, call = chronoedit_pipeline()
    return pipe, {**call, "enable_temporal_reasoning": True, "num_temporal_reasoning_steps": reasoning_steps}


def chronoedit_all_reasoning_pipeline():
    """3 latent frames to the end, which are decoded in two calls."""
    return chronoedit_reasoning_pipeline(reasoning_steps=2)


def anyflow_pipeline():
    scheduler = FlowMapEulerDiscreteScheduler(num_train_timesteps=1000, shift=5.0)
    return diffusers.AnyFlowPipeline(**parts(anyflow()[0], scheduler=scheduler)), prompts()
