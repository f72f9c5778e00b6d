"""Tiny transformers and pipelines of Cosmos, Sana-Video, Sana-WM and Helios; as in `wan_family`."""

import diffusers
import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from PIL import Image
from support import tiny
from support.tiny import noise
from torch import Tensor, nn

GRID = 3, 4, 6  # tokens: frames, height, width
BATCH, TEXT, TEXT_DIM, CHANNELS = 2, 5, 16, 4
PIXELS = {"height": 64, "width": 96}  # with a VAE of 8 and patches of 2: 4 × 6 tokens


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def seeded(cls: type, **config) -> nn.Module:
    """A module as it initialises itself, with a fixed seed."""
    torch.manual_seed(0)
    return cls(**config).eval()


def tiny_model(cls: type, std: float = 0.1, **config) -> nn.Module:
    """A module all of whose parameters are random, so that none is zero or one by initialisation."""
    return tiny.randomise(seeded(cls, **config), std=std)


def photo() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (PIXELS["height"], PIXELS["width"], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def embeds(dim: int = TEXT_DIM, batch: int = 1, length: int = TEXT) -> dict:
    """Embeddings of a prompt and a negative prompt, which take the place of a text encoder."""
    prompt, negative = noise(batch, length, dim, seed=1), noise(batch, length, dim, seed=2)
    return {"prompt_embeds": prompt, "negative_prompt_embeds": negative}


def sampling(**call) -> dict:
    """Arguments that nearly every call shares."""
    return {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np", "generator": generator(), **call}


def statistics(channels: int) -> dict:
    """Means and standard deviations of latents that are not 0 and 1."""
    return {
        "latents_mean": [0.1 * (i + 1) for i in range(channels)],
        "latents_std": [1.5 + 0.25 * i for i in range(channels)],
    }


def wan_vae(channels: int = CHANNELS) -> nn.Module:
    """8 × 8 pixels and 4 frames a latent."""
    sizes = {"base_dim": 3, "z_dim": channels, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    return seeded(diffusers.AutoencoderKLWan, temperal_downsample=[False, True, True], **sizes, **statistics(channels))


def ltx2_vae() -> nn.Module:
    """8 × 8 pixels and 8 frames a latent; buffers `latents_mean` and `latents_std`, which a checkpoint fills."""
    vae = seeded(
        diffusers.AutoencoderKLLTX2Video, latent_channels=8, block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(16, 32, 64), layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1), spatio_temporal_scaling=(True,) * 4,
        decoder_spatio_temporal_scaling=(True,) * 3, decoder_inject_noise=(False,) * 4,
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"), upsample_residual=(True,) * 3,
        upsample_factor=(2, 2, 2), timestep_conditioning=False, patch_size=1, patch_size_t=1, encoder_causal=True,
        decoder_causal=False, scaling_factor=1.25, spatial_compression_ratio=8, temporal_compression_ratio=8,
    )  # fmt: skip
    vae.latents_mean.copy_(0.1 * torch.arange(8))
    vae.latents_std.copy_(1.5 + 0.1 * torch.arange(8))
    return vae


# Cosmos


class NoGuardrail(ModelMixin, ConfigMixin):
    """In the place of cosmos_guardrail's checker, which is neither installed nor small."""

    def __init__(self):
        super().__init__()
        self.register_buffer("nothing", torch.zeros(1), persistent=False)

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: np.ndarray) -> np.ndarray:
        return frames


_COSMOS = {
    "in_channels": CHANNELS, "out_channels": CHANNELS, "num_attention_heads": 2, "attention_head_dim": 16,
    "num_layers": 3, "mlp_ratio": 2, "text_embed_dim": TEXT_DIM, "adaln_lora_dim": 4, "max_size": (16, 32, 32),
    "extra_pos_embed_type": "learnable",
}  # fmt: skip
_CONDITIONED = {"in_channels": CHANNELS + 1}  # a mask beside the latents; config.in_channels counts it
_CONTROLLED = {
    "controlnet_block_every_n": 2, "img_context_dim_in": 8, "img_context_num_tokens": 3,
    "img_context_dim_out": 32,
}  # fmt: skip


def cosmos_model(**config) -> nn.Module:
    return tiny_model(diffusers.CosmosTransformer3DModel, std=0.05, **{**_COSMOS, **config})


def cosmos_inputs() -> dict:
    return {
        "hidden_states": noise(BATCH, CHANNELS, 3, 8, 12), "timestep": torch.full((BATCH,), 0.5),
        "encoder_hidden_states": noise(BATCH, TEXT, TEXT_DIM, seed=1), "fps": 24,
        "padding_mask": torch.zeros(1, 1, *PIXELS.values()), "return_dict": False,
    }  # fmt: skip


def cosmos():
    """Cosmos 1, text to world."""
    return cosmos_model(), cosmos_inputs()


def cosmos_frames():
    """Cosmos 2 and 2.5, whose timesteps differ between frames, and a mask of condition frames."""
    timestep = torch.full((BATCH, 1, 3, 1, 1), 0.5)
    timestep[:, :, 0] = 1e-4
    mask = torch.zeros(BATCH, 1, 3, 8, 12)
    mask[:, :, 0] = 1
    return cosmos_model(**_CONDITIONED), {**cosmos_inputs(), "timestep": timestep, "condition_mask": mask}


def cosmos_controlled():
    """Transfer 2.5: image context in a tuple beside the text, residuals of a controlnet added inside of blocks."""
    model, inputs = cosmos_model(**_CONDITIONED, **_CONTROLLED), cosmos_frames()[1]
    context = inputs["encoder_hidden_states"], noise(BATCH, 3, 8, seed=3)
    residuals = [noise(BATCH, 72, 32, seed=4 + i) for i in range(2)]
    return model, {**inputs, "encoder_hidden_states": context, "block_controlnet_hidden_states": residuals}


def cosmos_vae() -> nn.Module:
    """8 × 8 pixels and 4 frames a latent; statistics of each latent frame (config lists of channels · frames)."""
    frames = 4
    return seeded(
        diffusers.AutoencoderKLCosmos, in_channels=3, out_channels=3, latent_channels=CHANNELS,
        encoder_block_out_channels=(8, 8, 8, 8), decode_block_out_channels=(8, 8, 8, 8), attention_resolutions=(8,),
        resolution=64, num_layers=2, patch_size=4, patch_type="haar", scaling_factor=1.0, spatial_compression_ratio=8,
        temporal_compression_ratio=4, **statistics(CHANNELS * frames),
    )  # fmt: skip


def edm_scheduler():
    return diffusers.EDMEulerScheduler(
        sigma_min=0.002, sigma_max=80, sigma_data=0.5, sigma_schedule="karras", num_train_timesteps=1000,
        prediction_type="epsilon", rho=7.0, final_sigmas_type="sigma_min",
    )  # fmt: skip


def cosmos_parts(**parts) -> dict:
    return {"text_encoder": None, "tokenizer": None, "safety_checker": NoGuardrail(), **parts}


def cosmos_text_to_world_pipeline():
    parts = cosmos_parts(transformer=cosmos_model(), vae=cosmos_vae(), scheduler=edm_scheduler())
    return diffusers.CosmosTextToWorldPipeline(**parts), sampling(num_frames=9, **PIXELS, **embeds())


def cosmos_video_to_world_pipeline():
    parts = cosmos_parts(transformer=cosmos_model(**_CONDITIONED), vae=cosmos_vae(), scheduler=edm_scheduler())
    call = sampling(image=photo(), num_frames=9, **PIXELS, **embeds())
    return diffusers.CosmosVideoToWorldPipeline(**parts), call


def cosmos2_video_to_world_pipeline():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    parts = cosmos_parts(transformer=cosmos_model(**_CONDITIONED), vae=wan_vae(), scheduler=scheduler)
    call = sampling(image=photo(), num_frames=9, **PIXELS, **embeds())
    return diffusers.Cosmos2VideoToWorldPipeline(**parts), call


def flow_unipc():
    """The scheduler of Cosmos 2.5 and Cosmos 3, whose sigmas must be in [0, 1]."""
    return diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=2.0)


def cosmos2_5_predict_pipeline():
    parts = cosmos_parts(transformer=cosmos_model(**_CONDITIONED), vae=wan_vae(), scheduler=flow_unipc())
    call = sampling(num_frames=9, **PIXELS, **embeds())
    return diffusers.Cosmos2_5_PredictBasePipeline(**parts), call


def cosmos_controlnet() -> nn.Module:
    shared = ("num_attention_heads", "attention_head_dim", "mlp_ratio", "text_embed_dim", "adaln_lora_dim", "max_size")
    return tiny_model(
        diffusers.CosmosControlNetModel, n_controlnet_blocks=2, in_channels=CHANNELS + 2,
        latent_channels=CHANNELS + 2, model_channels=32, extra_pos_embed_type="learnable", img_context_dim_in=8,
        img_context_dim_out=32, **{key: _COSMOS[key] for key in shared},
    )  # fmt: skip


def cosmos2_5_transfer_pipeline():
    """Two chunks of 9 frames, the second of which begins with the last frame of the first."""
    parts = cosmos_parts(
        transformer=cosmos_model(**_CONDITIONED, **_CONTROLLED), controlnet=cosmos_controlnet(), vae=wan_vae(),
        scheduler=flow_unipc(),
    )  # fmt: skip
    controls = [noise(3, *PIXELS.values(), seed=i) for i in range(17)]
    call = sampling(controls=controls, num_frames=17, num_frames_per_chunk=9, **PIXELS, **embeds())
    return diffusers.Cosmos2_5_TransferPipeline(**parts), call


# Sana-Video


_SANA = {
    "in_channels": CHANNELS, "out_channels": CHANNELS, "num_attention_heads": 2, "attention_head_dim": 16,
    "num_layers": 3, "num_cross_attention_heads": 2, "cross_attention_head_dim": 16, "cross_attention_dim": 32,
    "caption_channels": TEXT_DIM, "rope_max_seq_len": 32,
}  # fmt: skip


def sana_video():
    inputs = {
        "hidden_states": noise(BATCH, CHANNELS, 3, 8, 12), "timestep": torch.full((BATCH,), 500.0),
        "encoder_hidden_states": noise(BATCH, TEXT, TEXT_DIM, seed=1),
        "encoder_attention_mask": torch.ones(BATCH, TEXT), "return_dict": False,
    }  # fmt: skip
    return tiny_model(diffusers.SanaVideoTransformer3DModel, **_SANA), inputs


def sana_video_tokens():
    """Image to video: a timestep a token, (b, 1, frames, height, width) of the token grid, 0 in the first frame."""
    model, inputs = sana_video()
    timestep = torch.full((BATCH, 1, *GRID), 500.0)
    timestep[:, :, 0] = 0
    return model, {**inputs, "timestep": timestep}


def masks(**parts) -> dict:
    mask = torch.ones(1, TEXT, dtype=torch.long)
    return {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask, **parts}


def sana_video_parts(vae: nn.Module, **config) -> dict:
    transformer = tiny_model(diffusers.SanaVideoTransformer3DModel, **{**_SANA, **config})
    return {"text_encoder": None, "tokenizer": None, "vae": vae, "transformer": transformer}


def sana_video_pipeline():
    scheduler = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    pipe = diffusers.SanaVideoPipeline(scheduler=scheduler, **sana_video_parts(wan_vae()))
    call = {"frames": 9, "use_resolution_binning": False, "negative_prompt": None, **masks(), **embeds()}
    return pipe, sampling(**PIXELS, **call)


def sana_video_ltx2_pipeline():
    """With the VAE of LTX 2, whose statistics are buffers; its `scaling_factor` is not used here."""
    scheduler = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    parts = sana_video_parts(ltx2_vae(), in_channels=8, out_channels=8)
    pipe = diffusers.SanaVideoPipeline(scheduler=scheduler, **parts)
    call = {"frames": 17, "use_resolution_binning": False, "negative_prompt": None, **masks(), **embeds()}
    return pipe, sampling(**PIXELS, **call)


def sana_image_to_video_pipeline():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = diffusers.SanaImageToVideoPipeline(scheduler=scheduler, **sana_video_parts(wan_vae()))
    call = {"frames": 9, "use_resolution_binning": False, "negative_prompt": None, **masks(), **embeds()}
    return pipe, sampling(image=photo(), **PIXELS, **call)


# Sana-WM


_SANA_WM = {
    "in_channels": 8, "num_layers": 3, "hidden_size": 32, "num_attention_heads": 2, "softmax_every_n": 2,
    "linear_head_dim": 16, "chunk_plucker_channels": 48, "caption_channels": TEXT_DIM,
}  # fmt: skip


def cameras(batch: int, frames: int = 3) -> Tensor:
    """Poses (4 × 4) and fx, fy, cx, cy, in latent pixels, of each latent frame."""
    poses = torch.eye(4).flatten().repeat(batch, frames, 1)
    poses[:, :, 3] = 0.1 * torch.arange(frames)
    return torch.cat([poses, torch.tensor([6.0, 6.0, 3.0, 2.0]).repeat(batch, frames, 1)], -1)


def sana_wm():
    """Latents of the token grid itself (patches are 1 × 1 × 1); a timestep a frame."""
    timestep = torch.full((BATCH, 1, 3), 500.0)
    timestep[:, :, 0] = 0
    inputs = {
        "hidden_states": noise(BATCH, 8, *GRID), "timestep": timestep,
        "encoder_hidden_states": noise(BATCH, 1, TEXT, TEXT_DIM, seed=1), "mask": torch.ones(BATCH, TEXT),
        "camera_conditions": cameras(BATCH), "chunk_plucker": noise(BATCH, 48, *GRID, seed=2), "return_dict": False,
    }  # fmt: skip
    return tiny_model(diffusers.SanaWMTransformer3DModel, **_SANA_WM), inputs


def sana_wm_pipeline():
    """32 × 48 pixels and 17 frames, of which the VAE of LTX 2 makes 3 × 4 × 6."""
    transformer = tiny_model(diffusers.SanaWMTransformer3DModel, **_SANA_WM)
    parts = {"tokenizer": None, "text_encoder": None, "vae": ltx2_vae(), "transformer": transformer}
    pipe = diffusers.SanaWMPipeline(scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), **parts)
    prompts = {key: value[:, None] for key, value in embeds().items()}
    call = {"image": photo(), "prompt": "", "action": "w-16", "intrinsics": [60.0, 60.0, 48.0, 32.0], "num_frames": 17}
    return pipe, sampling(height=32, width=48, **call, **masks(), **prompts)


# Helios


_HELIOS = {
    "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": CHANNELS, "out_channels": CHANNELS,
    "text_dim": TEXT_DIM, "freq_dim": 16, "ffn_dim": 32, "num_layers": 3, "rope_dim": (8, 4, 4),
}  # fmt: skip


def helios_alone():
    """Without history: the stream is the video."""
    inputs = {
        "hidden_states": noise(BATCH, CHANNELS, 3, 8, 12), "timestep": torch.full((BATCH,), 500),
        "encoder_hidden_states": noise(BATCH, TEXT, TEXT_DIM, seed=1), "return_dict": False,
    }  # fmt: skip
    return tiny_model(diffusers.HeliosTransformer3DModel, **_HELIOS), inputs


def helios():
    """With history, whose tokens come before the video's: 4 frames long, 2 mid, 1 + 1 short."""
    model, inputs = helios_alone()
    indices = torch.arange(11).expand(BATCH, -1).split([4, 2, 2, 3], 1)
    history = [noise(BATCH, CHANNELS, frames, 8, 12, seed=3 + i) for i, frames in enumerate((4, 2, 2))]
    names = "long", "mid", "short"
    return model, {
        **inputs, "indices_hidden_states": indices[3],
        **{f"indices_latents_history_{name}": value for name, value in zip(names, indices, strict=False)},
        **{f"latents_history_{name}": value for name, value in zip(names, history, strict=True)},
    }  # fmt: skip


def helios_parts(**parts) -> dict:
    transformer = tiny_model(diffusers.HeliosTransformer3DModel, **_HELIOS)
    return {"text_encoder": None, "tokenizer": None, "vae": wan_vae(), "transformer": transformer, **parts}


def helios_call(**call) -> dict:
    """Two chunks of 3 latent frames."""
    history = {"history_sizes": [4, 2, 1], "num_latent_frames_per_chunk": 3}
    call = sampling(num_frames=18, **PIXELS, **history, **embeds(), **call)
    return {**call, "negative_prompt": None}


def helios_pipeline():
    scheduler = diffusers.HeliosScheduler(stage_range=[0, 1], stages=1, use_dynamic_shifting=True)
    return diffusers.HeliosPipeline(**helios_parts(scheduler=scheduler)), helios_call()


# The default gamma of 1/3 makes a covariance singular, and its Cholesky factorisation fails on the CPU.
STAGES = {"stage_range": [0, 0.5, 1], "stages": 2, "gamma": 0.3, "use_dynamic_shifting": True}


def helios_pyramid_pipeline():
    """Two stages of 2 steps, the first at half the height and width."""
    scheduler = diffusers.HeliosScheduler(**STAGES)
    call = helios_call(pyramid_num_inference_steps_list=[2, 2])
    del call["num_inference_steps"]
    return diffusers.HeliosPyramidPipeline(**helios_parts(scheduler=scheduler)), call
