"""Validation: a run generates a fixed set of people and prompts, as videos with their route maps."""

# f frames · h w pixels · m components · F H W token grid

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from ..data.base_encoders import BaseEncoders
from ..data.shards import Shards, read_picture
from ..faces.processor import FaceProcessor
from ..files.atomic import written_aside
from ..visualize.route_video import of_frames, route_overlay, side_by_side, video_sheet, write_video
from .config import TrainingConfig
from .step import TrainingStep

_SHOWN = 6  # frames of a contact sheet


@dataclass(frozen=True)
class Subject:
    """A person and a prompt that are generated at each validation.

    Attributes:
        prompt: The prompt's text.
        prompt_embeds: Its embeddings, (1, n, d).
        aligned: The aligned reference, (512, 512, 3), uint8.
        component_map: Its components, (512, 512), uint8.
        hidden: Which of them it does not show.
        id_embedding: (1, i).
    """

    prompt: str
    prompt_embeds: Tensor
    aligned: np.ndarray
    component_map: np.ndarray
    hidden: Sequence[str]
    id_embedding: Tensor


class Validation:
    """Generates each subject with the adapters as they are.

    Args:
        step: Holds the pipeline and the adapters.
        shards: Whose first samples are taken if the config names no one, and whose size and empty prompt in any case.
        config: The settings of the run.
        prompts: From `encode_prompts`.

    Raises:
        ValueError, OSError: If a reference cannot be read, or a download of a model fails.
    """

    def __init__(self, step: TrainingStep, shards: Shards, config: TrainingConfig, prompts: Sequence[Tensor] = ()):
        self._step, self._config, self._null_prompt = step, config, shards.null_prompt[None]
        self._size = shards.sizes[0]
        if config.validation:
            self.subjects = _read_subjects(step, config, prompts)
        else:
            self.subjects = [_sample_subject(shards, i) for i in range(min(2, len(shards)))]

    @torch.no_grad()
    def __call__(self, folder: Path | None, indices: Sequence[int]) -> None:
        """Write a contact sheet and a video for some of the subjects.

        Args:
            folder: Where `0.png`, `0.mp4`, ... go; None writes nothing.
            indices: Of the subjects.
        """
        pipe = self._step.pipe
        pipe.vae.to(self._step.device)
        pipe.vae.enable_tiling()
        try:
            for i in indices:
                subject = self.subjects[i]
                video, routes = self._generate(subject)
                if folder is None:
                    continue
                if routes is not None:
                    overlays = [route_overlay(frame, weights) for frame, weights in zip(video, routes, strict=True)]
                    video = side_by_side(video, np.stack(overlays))
                shown = video[np.linspace(0, len(video) - 1, min(_SHOWN, len(video))).round().astype(int)]
                with written_aside(folder) as aside:
                    write_video(video, aside / f"{i}.mp4")
                    video_sheet(subject.aligned, shown, subject.prompt).save(aside / f"{i}.png")
        finally:
            pipe.vae.to("cpu")

    def _generate(self, subject: Subject) -> tuple[np.ndarray, np.ndarray | None]:
        """Frames (f, h, w, 3), uint8, and the route weights of each (f, m, H, W) in the last denoising step."""
        step, pipe = self._step, self._step.pipe
        frames, height, width = self._size
        routes = []
        if step.handle is not None:
            images, mask = step.reference_images(subject.aligned, subject.component_map, subject.hidden)
            step.handle.set_tokens(*step.component_tokens(images, mask, subject.id_embedding.to(step.device)))
        arguments = {
            "prompt_embeds": subject.prompt_embeds.to(step.device, step.dtype),
            "negative_prompt_embeds": self._null_prompt.to(step.device, step.dtype),
            "num_frames": frames,
            "height": height,
            "width": width,
            "num_inference_steps": self._config.validation_steps,
            "guidance_scale": self._config.guidance_scale,
            "generator": torch.Generator().manual_seed(self._config.seed),
            "output_type": "latent",
        }
        if step.handle is None:
            latents = pipe(**arguments).frames
        else:
            with step.handle.record_routes() as routes:
                latents = pipe(**arguments).frames
        # Of a host whose tokens span frames the pipeline drops what it has padded only if it decodes itself.
        latents = latents[:, latents.shape[1] - ((frames - 1) // pipe.vae_scale_factor_temporal + 1) :]
        if step.tam is not None:
            latents = step.tam.refine(latents)
        video = pipe.decode_latents(latents.to(pipe.vae.dtype))
        video = pipe.video_processor.postprocess_video(video, output_type="np")[0]
        pixels = (video * 255).round().astype(np.uint8)
        if not routes:
            return pixels, None
        return pixels, of_frames(routes[-1][-1].float().cpu().numpy(), len(pixels))  # guidance: prompt last


def _sample_subject(shards: Shards, i: int) -> Subject:
    members = shards.members(i)
    with shards.reading(i):
        tensors, about = load(members["safetensors"]), json.loads(members["json"])
        aligned, component_map = (read_picture(members[f"{name}.png"]) for name in ("aligned", "aligned_map"))
        embeds, identity = tensors["prompt_embeds"][None], tensors["id_embedding"][None]
        return Subject(about["caption"], embeds, aligned, component_map, list(about["hidden"]), identity)


def encode_prompts(config: TrainingConfig, length: int, device: torch.device) -> list[Tensor]:
    """Return the embeddings of the prompts that the config names, (1, n, d) each.

    The text encoder is freed afterwards, so call this before the host needs the memory.

    Args:
        config: The settings of the run.
        length: Tokens of a prompt, as in the shards.
        device: Device of the text encoder.

    Raises:
        FileNotFoundError: If a reference that the config names is not there.
        OSError: If the text encoder is not there, or its download fails.
    """
    for entry in config.validation:
        if "://" not in entry["reference"] and not Path(entry["reference"]).is_file():
            raise FileNotFoundError(
                f"There is no photo '{entry['reference']}', which validation names. Correct its path."
            )
    if not config.validation:
        return []
    encoders = BaseEncoders(config.base, length, getattr(torch, config.dtype), device)
    prompts = [encoders.encode_prompt(entry["prompt"])[None] for entry in config.validation]
    del encoders
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return prompts


def _read_subjects(step: TrainingStep, config: TrainingConfig, prompts: Sequence[Tensor]) -> list[Subject]:
    if step.encoder is None:
        raise ValueError("validation names references, but there is no router to show them: leave it empty.")
    face = FaceProcessor.for_encoder(step.encoder, vision=None, device=step.device)
    subjects = []
    for entry, embeds in zip(config.validation, prompts, strict=True):
        features = face(entry["reference"], face_index="largest")
        identity = features.id_embedding[None]
        hidden = list(features.hidden)
        subjects.append(Subject(entry["prompt"], embeds, features.aligned, features.component_map, hidden, identity))
    return subjects
