"""What is known of each pipeline: how guidance is run, which timesteps make its run, what its latents are to the VAE,
and where TAM can refine them."""

# b batch · c channels · f frames · h w height and width

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .host import Arguments
from .pipe_models import find_decoders


def _scaling_factor(pipe) -> float:
    return find_decoders(pipe)[0].config.get("scaling_factor") or 1.0


def _sigma_data(pipe) -> float:
    return pipe.scheduler.config.sigma_data


def runs(pipe) -> bool:
    """Whether a forward is of a run of this pipeline, as far as it or its scheduler notes that: others may share its
    transformer."""
    if getattr(pipe, "_current_timestep", True) is None:
        return False
    if torch.compiler.is_compiling():  # a number would be compiled into the graph of a forward
        return True
    scheduler = getattr(pipe, "scheduler", None)
    index = getattr(scheduler, "step_index", None)
    return index is None or index < len(scheduler.timesteps)


def _run(pipe) -> Tensor | None:
    """The timesteps of a pipeline's run: a video-to-video run is the last `num_timesteps` of the scheduler's."""
    count = getattr(pipe, "_num_timesteps", None) if runs(pipe) else None  # there is none before the first run
    return None if count is None else pipe.scheduler.timesteps[-count:]


def _all_of_scheduler(pipe) -> Tensor | None:
    """The timesteps of a modular pipeline's run, which notes nothing itself."""
    return pipe.scheduler.timesteps if runs(pipe) else None


def _guided_passes(pipe) -> int | None:
    """Two where the pipe guides, and does so in one batch."""
    guided = getattr(pipe, "do_classifier_free_guidance", None)
    if guided is None:  # CogVideoX and Allegro tell the scale alone, of which CogVideoX's dynamic guidance makes 1
        guided = getattr(pipe, "_guidance_scale", 1) > 1 or None
    return None if guided is None else 1 + guided


@dataclass(frozen=True)
class VideoPipeline:
    """Description of a pipeline that makes videos with a host.

    Attributes:
        transformer: Class of the host.
        passes: Guidance passes in one batch: 2 for [negative, positive], 1 if each is a call of its own, or a function
            of the pipe and a forward's arguments.
        seam: Where TAM refines: the pipe's method to which normalised latents of a whole clip are given, or
            "vae.decode", to which they come denormalised, whichever of `find_decoders` decodes.
        layout: Order of the latents' axes there.
        output: Order of the axes of what `output_type="latent"` gives, or a modular pipeline's `output="latents"`.
        denormalised: Whether that is what the VAE decodes, instead of normalised latents.
        unrefined: Why TAM cannot refine that by hand, if so.
        divisor: From the pipe to the number by which latents are divided, besides the VAE's mean and deviation.
        run: From the pipe to the timesteps of its run, first step first; None if they do not tell its progress.
        current: From the pipe's `_current_timestep` to the scheduler's timestep.
        units: From the scheduler's timesteps to those that the transformer is given.
    """

    transformer: str
    passes: int | Callable[[Any, Arguments], int | None] = 1
    seam: str = "vae.decode"
    layout: str = "bcfhw"
    output: str = "bcfhw"
    denormalised: bool = False
    unrefined: str | None = None
    divisor: Callable[[Any], float] = _scaling_factor
    run: Callable[[Any], Tensor | None] = _run
    current: Callable[[Tensor], Tensor] = torch.Tensor.float
    units: Callable[[Tensor], Tensor] = torch.Tensor.float

    def passes_of(self, pipe, arguments: Arguments) -> int | None:
        """Guidance passes in the batch of a forward, None if they are not known."""
        if not runs(pipe):
            return None
        if callable(self.passes):
            return self.passes(pipe, arguments)
        return 1 if self.passes == 1 else _guided_passes(pipe)

    def progress(self, pipe, timestep: Tensor) -> Tensor | None:
        """Fraction of the pipe's run that is behind, (1,), without a number being read off the device.

        It is the place in the run of the pipe's own timestep, or, if it notes none, of the transformer's (b,), which
        may be rounded: so the nearest one counts, and the run is rounded alike.
        """
        run = self.run(pipe)
        if run is None:
            return None
        now = getattr(pipe, "_current_timestep", None)
        if isinstance(now, Tensor):
            run, now = run.float(), self.current(now).amax()
        else:  # a number would be compiled into the graph of a forward
            run, now = self.units(run).to(timestep.dtype).float(), timestep[0].float()
        return ((run - now.to(run.device)).abs().argmin() / len(run)).reshape(1)

    def moments(self, pipe, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift, in float32 and broadcast to latents (b, c, f, h, w), of what the pipe has the VAE decode:
        normalised latents · scale + shift."""
        vae, (channels, frames) = find_decoders(pipe)[0], latents.shape[1:3]
        buffers = dict(vae.named_buffers(recurse=False))
        values = []
        for name, neutral in (("latents_std", 1.0), ("latents_mean", 0.0)):
            value = vae.config.get(name)
            value = buffers.get(name) if value is None else value
            value = torch.as_tensor(neutral if value is None else value, dtype=torch.float32, device=latents.device)
            # Cosmos 1 has statistics of each channel and frame, the others of each channel.
            values.append(value.view(1, 1 if value.numel() == 1 else channels, -1, 1, 1)[:, :, :frames])
        return values[0] / self.divisor(pipe), values[1]

    def refine_denormalised(self, pipe, latents: Tensor, refine: Callable[[Tensor], Tensor]) -> Tensor:
        """What the VAE would decode (b, c, f, h, w), refined in the normalised space; bit for bit the same if `refine`
        changes nothing."""
        scale, shift = self.moments(pipe, latents)
        normalised = ((latents.float() - shift) / scale).to(latents.dtype)
        change = refine(normalised).float() - normalised.float()
        return latents + (scale * change).to(latents.dtype)


def _ltx2_passes(pipe, arguments: Arguments) -> int | None:
    """A step is up to three forwards: [negative, positive], and positives alone with blocks or audio cut off."""
    if arguments.get("spatio_temporal_guidance_blocks") or arguments.get("isolate_modalities"):
        return 1
    return _guided_passes(pipe)


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
_COSMOS = VideoPipeline("CosmosTransformer3DModel", divisor=_sigma_data)
_COSMOS25 = VideoPipeline("CosmosTransformer3DModel", units=lambda run: run / 1000)
_SANA = VideoPipeline("SanaVideoTransformer3DModel", passes=2, divisor=lambda pipe: 1.0)
_HELIOS = VideoPipeline("HeliosTransformer3DModel")


def _modular(kind: VideoPipeline) -> VideoPipeline:
    """The same in blocks: a guider makes each pass a call of its own, and they have no method that is given latents."""
    return replace(kind, passes=1, seam="vae.decode", run=_all_of_scheduler)


_MODULAR_WAN = _modular(_WAN)
_MODULAR_HELIOS = _modular(_HELIOS)
# Latents are those of videos with `output_type="latent"`; `output="latents"` gives them packed.
_MODULAR_LTX2 = _modular(_LTX2)

# Where a video is made in parts, each is a run, and what is decoded at once is refined as a clip of its own.
PIPELINES: Mapping[str, VideoPipeline] = {
    "AllegroPipeline": VideoPipeline("AllegroTransformer3DModel", passes=2, seam="decode_latents"),
    "AnyFlowPipeline": VideoPipeline("AnyFlowTransformer3DModel", passes=2),
    "ChronoEditPipeline": VideoPipeline("ChronoEditTransformer3DModel"),
    "CogVideoXPipeline": _COGVIDEOX,
    "CogVideoXFunControlPipeline": _COGVIDEOX,
    "CogVideoXImageToVideoPipeline": _COGVIDEOX,
    "CogVideoXVideoToVideoPipeline": _COGVIDEOX,
    "ConsisIDPipeline": replace(_COGVIDEOX, transformer="ConsisIDTransformer3DModel"),
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
    "LTXI2VLongMultiPromptPipeline": replace(_LTX, run=lambda pipe: None if (t := _run(pipe)) is None else t[:-1]),
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
    "Wan22VaceModularPipeline": replace(_MODULAR_WAN, transformer="WanVACETransformer3DModel"),
}

NOT_PIPELINES: Mapping[str, str] = {
    "AnimaModularPipeline": "it makes images",
    "AnyFlowFARPipeline": "its transformer is not supported",
    "Cosmos2TextToImagePipeline": "it makes images",
    "Cosmos3DistilledModularPipeline": "its transformer is not supported",
    "Cosmos3OmniModularPipeline": "its transformer is not supported",
    "Cosmos3OmniPipeline": "its transformer is not supported",
    "EchoModularPipeline": "its forwards do not tell the clip's tokens from those of its memory",
    "EasyAnimateControlPipeline": "it calls a method that it does not have, and so cannot run",
    "Kandinsky5I2IPipeline": "it makes images",
    "Kandinsky5T2IPipeline": "it makes images",
    "Kandinsky6SRPipeline": "its transformer is not supported",
    "LTX2DFRPipeline": "its forwards do not tell the clip's tokens from those of keyframes",
    "LTX2DFRTemporalRefinePipeline": "its forwards do not tell the clip's tokens from those of keyframes",
    "MiniMaxH3ModularPipeline": "its transformer is not supported",
    "WanAnimate2DistilledModularPipeline": "its transformer is not supported",
    "WanAnimate2ModularPipeline": "its transformer is not supported",
}


def find_pipeline(pipe) -> VideoPipeline:
    """The description of a pipeline.

    Raises:
        ValueError: If it has none.
    """
    for cls in type(pipe).__mro__:
        if cls.__name__ in PIPELINES:
            return PIPELINES[cls.__name__]
        if cls.__name__ in NOT_PIPELINES:
            raise ValueError(f"{cls.__name__} is not supported: {NOT_PIPELINES[cls.__name__]}.")
    raise ValueError(
        f"{type(pipe).__name__} is not supported: use one of {', '.join(PIPELINES)}, or attach() a router."
    )
