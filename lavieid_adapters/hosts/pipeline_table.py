"""The pipelines of diffusers that take adapters, and those that cannot, each with its description or the reason."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from .host import Arguments
from .pipeline import VideoPipeline, guided_passes, noted_timesteps


def sigma_data(pipe) -> float:
    """Return the divisor of the latents of Cosmos 1 and 2."""
    return pipe.scheduler.config.sigma_data


def all_timesteps(pipe) -> Tensor:
    """Return the timesteps of a modular pipeline's run, which notes nothing itself: all of the scheduler's."""
    return pipe.scheduler.timesteps


def _ltx2_passes(pipe, arguments: Arguments) -> int | None:
    """Return the passes of LTX-2, whose step is up to three forwards: [negative, positive], then positives alone with
    blocks or audio cut off."""
    if arguments.get("spatio_temporal_guidance_blocks") or arguments.get("isolate_modalities"):
        return 1
    return guided_passes(pipe)


_COGVIDEOX = VideoPipeline(
    "CogVideoXTransformer3DModel", passes=2, seam="decode_latents", layout="bfchw", output="bfchw"
)
_WAN = VideoPipeline("WanTransformer3DModel")
_SKYREELS = VideoPipeline("SkyReelsV2Transformer3DModel")
_HUNYUAN = VideoPipeline("HunyuanVideoTransformer3DModel")
_HUNYUAN15 = VideoPipeline("HunyuanVideo15Transformer3DModel")
_KANDINSKY5 = VideoPipeline("Kandinsky5Transformer3DModel", output="bfhwc")
_EASYANIMATE = VideoPipeline("EasyAnimateTransformer3DModel", passes=2)
_MOTIF = VideoPipeline("MotifVideoTransformer3DModel")
# Here the VAE decodes tiles, or latents that noise was mixed into, so that TAM comes before the denormalisation.
_LTX = VideoPipeline("LTXVideoTransformer3DModel", passes=2, seam="_denormalize_latents")
_LTX2 = VideoPipeline("LTX2VideoTransformer3DModel", passes=_ltx2_passes, denormalised=True)
_COSMOS = VideoPipeline("CosmosTransformer3DModel", divisor=sigma_data)
_COSMOS25 = VideoPipeline("CosmosTransformer3DModel", units=lambda run: run / 1000)
_SANA = VideoPipeline("SanaVideoTransformer3DModel", passes=2, divisor=lambda pipe: 1.0)
_HELIOS = VideoPipeline("HeliosTransformer3DModel")


def _modular(kind: VideoPipeline) -> VideoPipeline:
    """Return the description of the same pipeline in blocks, where a guider makes each pass a call of its own, and no
    method is given latents."""
    return replace(kind, passes=1, seam="vae.decode", run=all_timesteps)


_MODULAR_WAN = _modular(_WAN)
_MODULAR_HELIOS = _modular(_HELIOS)
# Latents are those of videos with `output_type="latent"`; `output="latents"` gives them packed.
_MODULAR_LTX2 = _modular(_LTX2)

# Where a video is made in parts, each is a run, and what is decoded at once is refined as a video of its own.
PIPELINES: Mapping[str, VideoPipeline] = {
    "AllegroPipeline": VideoPipeline("AllegroTransformer3DModel", passes=2, seam="decode_latents"),
    "AnyFlowPipeline": VideoPipeline("AnyFlowTransformer3DModel", passes=2),
    "ChronoEditPipeline": VideoPipeline("ChronoEditTransformer3DModel"),
    "CogVideoXPipeline": _COGVIDEOX,
    "CogVideoXFunControlPipeline": _COGVIDEOX,
    "CogVideoXImageToVideoPipeline": _COGVIDEOX,
    "CogVideoXVideoToVideoPipeline": _COGVIDEOX,
    "ConsisIDPipeline": replace(_COGVIDEOX, host="ConsisIDTransformer3DModel"),
    "CosmosTextToWorldPipeline": _COSMOS,
    "CosmosVideoToWorldPipeline": _COSMOS,
    "Cosmos2VideoToWorldPipeline": replace(_COSMOS, units=lambda run: run / (run + 1000)),
    "Cosmos2_5_PredictBasePipeline": _COSMOS25,
    "Cosmos2_5_TransferPipeline": _COSMOS25,
    "EasyAnimatePipeline": _EASYANIMATE,
    "EasyAnimateInpaintPipeline": _EASYANIMATE,
    "HeliosPipeline": _HELIOS,
    # A stage's timesteps are those of its resolution; the timestep itself goes down once a part.
    "HeliosPyramidPipeline": replace(_HELIOS, run=lambda pipe: None),
    "HunyuanSkyreelsImageToVideoPipeline": _HUNYUAN,
    "HunyuanVideoPipeline": _HUNYUAN,
    "HunyuanVideoImageToVideoPipeline": _HUNYUAN,
    "HunyuanVideoFramepackPipeline": VideoPipeline("HunyuanVideoFramepackTransformer3DModel"),
    "HunyuanVideo15Pipeline": _HUNYUAN15,
    "HunyuanVideo15ImageToVideoPipeline": _HUNYUAN15,
    "Kandinsky5T2VPipeline": _KANDINSKY5,
    "Kandinsky5I2VPipeline": _KANDINSKY5,
    "Kandinsky6TI2VAPipeline": VideoPipeline("Kandinsky6Transformer3DModel"),
    "LattePipeline": VideoPipeline("LatteTransformer3DModel", passes=2, seam="decode_latents"),
    "LTXPipeline": _LTX,
    "LTXConditionPipeline": _LTX,
    # The last of its timesteps is the end of the run, at which no step begins.
    "LTXI2VLongMultiPromptPipeline": replace(
        _LTX, run=lambda pipe: None if (t := noted_timesteps(pipe)) is None else t[:-1]
    ),
    "LTXImageToVideoPipeline": _LTX,
    "LTX2Pipeline": _LTX2,
    "LTX2ConditionPipeline": _LTX2,
    "LTX2HDRPipeline": _LTX2,
    "LTX2ImageToVideoPipeline": _LTX2,
    "LTX2InContextPipeline": _LTX2,
    "LucyEditPipeline": _WAN,
    "MochiPipeline": VideoPipeline("MochiTransformer3DModel", passes=2, current=lambda t: 1000 - t.float()),
    "MotifVideoPipeline": _MOTIF,
    "MotifVideoImage2VideoPipeline": _MOTIF,
    "SanaVideoPipeline": _SANA,
    "SanaImageToVideoPipeline": _SANA,
    "SanaWMPipeline": VideoPipeline("SanaWMTransformer3DModel", passes=2, seam="_decode_latents"),
    "SkyReelsV2Pipeline": _SKYREELS,
    "SkyReelsV2DiffusionForcingPipeline": _SKYREELS,
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": _SKYREELS,
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": _SKYREELS,
    "SkyReelsV2ImageToVideoPipeline": _SKYREELS,
    "WanPipeline": _WAN,
    "WanAnimatePipeline": VideoPipeline(
        "WanAnimateTransformer3DModel", unrefined="are of the last part alone, behind a frame of the reference picture"
    ),
    "WanImageToVideoPipeline": _WAN,
    "WanVACEPipeline": VideoPipeline(
        "WanVACETransformer3DModel", unrefined="begin with the frames of the reference pictures, if there were any"
    ),
    "WanVideoToVideoPipeline": _WAN,
    "HeliosModularPipeline": _MODULAR_HELIOS,
    "HeliosPyramidModularPipeline": replace(_MODULAR_HELIOS, run=lambda pipe: None),
    "HeliosPyramidDistilledModularPipeline": replace(_MODULAR_HELIOS, run=lambda pipe: None),
    "HunyuanVideo15ModularPipeline": _modular(_HUNYUAN15),
    # With `decode_noise_scale`, TAM gets the latents with that noise.
    "LTXModularPipeline": _modular(_LTX),
    "LTX2ModularPipeline": _MODULAR_LTX2,
    "LTX25ModularPipeline": _MODULAR_LTX2,
    "WanModularPipeline": _MODULAR_WAN,
    "WanImage2VideoModularPipeline": _MODULAR_WAN,
    "Wan22ModularPipeline": _MODULAR_WAN,
    "Wan22Image2VideoModularPipeline": _MODULAR_WAN,
    "Wan22VaceModularPipeline": replace(_MODULAR_WAN, host="WanVACETransformer3DModel"),
}

NOT_PIPELINES: Mapping[str, str] = {
    "AnimaModularPipeline": "it makes images",
    "AnyFlowFARPipeline": "its transformer is not supported",
    "Cosmos2TextToImagePipeline": "it makes images",
    "Cosmos3DistilledModularPipeline": "its transformer is not supported",
    "Cosmos3OmniModularPipeline": "its transformer is not supported",
    "Cosmos3OmniPipeline": "its transformer is not supported",
    "EchoModularPipeline": "its forwards do not tell the video tokens from those of its memory",
    "EasyAnimateControlPipeline": "it calls a method that it does not have, and so cannot run",
    "Kandinsky5I2IPipeline": "it makes images",
    "Kandinsky5T2IPipeline": "it makes images",
    "Kandinsky6SRPipeline": "its transformer is not supported",
    "LTX2DFRPipeline": "its forwards do not tell the video tokens from those of keyframes",
    "LTX2DFRTemporalRefinePipeline": "its forwards do not tell the video tokens from those of keyframes",
    "MiniMaxH3ModularPipeline": "its transformer is not supported",
    "WanAnimate2DistilledModularPipeline": "its transformer is not supported",
    "WanAnimate2ModularPipeline": "its transformer is not supported",
}


def find_pipeline(pipe) -> VideoPipeline:
    """Return the description of a pipeline.

    Raises:
        ValueError: If it has none. The message gives the reason, or shows how to describe it.
    """
    for cls in type(pipe).__mro__:
        if cls.__name__ in PIPELINES:
            return PIPELINES[cls.__name__]
        if cls.__name__ in NOT_PIPELINES:
            raise ValueError(f"{cls.__name__} is not supported: {NOT_PIPELINES[cls.__name__]}.")
    raise ValueError(
        f"{type(pipe).__name__} is not supported, because it has no description. Use one of {', '.join(PIPELINES)}, "
        "describe it by attach_lavieid(..., pipeline=VideoPipeline(...)), or attach() a router."
    )
