"""Tiny pipelines of diffusers' blocks, with the models and the arguments of the pipelines that are not modular.

`name_pipeline()` gives (pipe, keywords of a call of few steps).
"""

import diffusers
import torch
from diffusers.guiders import LTX2Guidance
from support.hosts import cosmos_family as cosmos
from support.hosts import hunyuan_family as hunyuan
from support.hosts import ltx_family as ltx
from support.hosts import wan_family as wan


def modular(cls: type, build, **components) -> tuple:
    """The models of a pipeline that is not modular in a modular one, whose prompts are embeddings.

    Args:
        cls: Class of the modular pipeline.
        build: Builder of the other.
        components: Components by name, in place of the other's.
    """
    other, call = build()
    blocks = getattr(diffusers, cls.default_blocks_name)()
    if "connectors" in blocks.sub_blocks["text_encoder"].sub_blocks:
        blocks.sub_blocks["text_encoder"].sub_blocks.pop("text_encoder")
    else:
        blocks.sub_blocks.pop("text_encoder")
    pipe = cls(blocks)
    scale = call.get("guidance_scale")
    scales = {"guider": scale, "guider_2": call.get("guidance_scale_2", scale)}
    for name in scales.keys() & set(pipe.component_names) if scale else ():
        guider = getattr(pipe, name)
        components = {name: type(guider).from_config(guider.config, guidance_scale=scales[name]), **components}
    components = {**other.components, **components}
    names = pipe.component_names
    pipe.update_components(**{key: model for key, model in components.items() if key in names and model is not None})
    taken = {parameter.name for parameter in blocks.inputs} - {"return_dict"}
    return pipe, {**{key: value for key, value in call.items() if key in taken}, "output": "videos"}


def wan_modular_pipeline():
    return modular(diffusers.WanModularPipeline, wan.wan_pipeline)


def wan_i2v_modular_pipeline():
    return modular(diffusers.WanImage2VideoModularPipeline, wan.wan_i2v_pipeline)


def wan22_modular_pipeline():
    return modular(diffusers.Wan22ModularPipeline, wan.wan22_pipeline)


def wan22_i2v_modular_pipeline():
    return modular(diffusers.Wan22Image2VideoModularPipeline, wan.wan22_i2v_pipeline)


def wan22_vace_modular_pipeline():
    return modular(diffusers.Wan22VaceModularPipeline, wan.wan_vace_pipeline, transformer_2=wan.wan_vace()[0])


def hunyuan_video15_modular_pipeline():
    return modular(diffusers.HunyuanVideo15ModularPipeline, hunyuan.hunyuan_video15_pipeline)


def ltx_modular_pipeline(**parts):
    return modular(diffusers.LTXModularPipeline, lambda: ltx.ltx_pipeline(**parts))


def ltx_image_to_video_modular_pipeline():
    return modular(diffusers.LTXModularPipeline, ltx.ltx_image_to_video_pipeline)


def _ltx2(cls: type, build, **components) -> tuple:
    """All four guidance terms, each a call of its own. The tokenizer says on which side it pads, and no more."""
    terms = {"stg_scale": 1.0, "modality_scale": 3.0, "guidance_rescale": 0.7, "spatio_temporal_guidance_blocks": [1]}
    guiders = {"guider": LTX2Guidance(3.0, **terms), "audio_guider": LTX2Guidance(7.0, **terms)}
    pipe, call = modular(cls, build, **guiders, tokenizer=ltx.text_parts(16)[1], **components)
    return pipe, {**call, "batch_size": 1, "dtype": torch.float32}


def ltx2_modular_pipeline():
    return _ltx2(diffusers.LTX2ModularPipeline, ltx.ltx2_pipeline)


def ltx2_in_context_modular_pipeline():
    return _ltx2(diffusers.LTX2ModularPipeline, ltx.ltx2_in_context_pipeline)


def ltx25_modular_pipeline():
    """Without a VAE, so that the factors are 8 and 32; few latents, since the decoder's attention is dense on a CPU."""
    decoder = diffusers.LTX2VideoDiffusionDecoderModel(
        latent_channels=4, patch_size=4, scaling_factor=0.8, decoder_head_dim=16, decoder_stage_channels=(16,) * 5,
        decoder_stage_depths=(1,) * 5, decoder_stage_kernels=((3, 3, 3),) * 4, decoder_stage5_kernel=(3, 3, 3),
        decoder_upsample_strides=((1, 2, 2), (2, 1, 1), (2, 1, 1), (1, 1, 1)), decoder_t_emb_dim=16,
        decoder_upsample_channel_reductions=(1,) * 4, spatial_compression_ratio=8, temporal_compression_ratio=4,
    )  # fmt: skip
    decoder = ltx.set_statistics(ltx.randomise(decoder))
    pipe, call = _ltx2(diffusers.LTX25ModularPipeline, ltx.ltx2_pipeline, diffusion_decoder=decoder, vae=None)
    return pipe, {**call, "height": 96, "width": 96, "num_frames": 17}


def helios_modular_pipeline():
    return modular(diffusers.HeliosModularPipeline, cosmos.helios_pipeline)


def helios_pyramid_modular_pipeline():
    return modular(diffusers.HeliosPyramidModularPipeline, cosmos.helios_pyramid_pipeline)


def helios_distilled_modular_pipeline():
    scheduler = diffusers.HeliosDMDScheduler(**cosmos.STAGES)
    return modular(diffusers.HeliosPyramidDistilledModularPipeline, cosmos.helios_pyramid_pipeline, scheduler=scheduler)
