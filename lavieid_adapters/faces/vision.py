"""Features of the components' images, by a vision transformer of the transformers library."""

# m images · s side of an image · p tokens of a feature map, the class token first · c width of the ViT

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, CLIPVisionModelWithProjection

from ..extras import require
from ..files.digests import sampled_digest
from ..files.hub import fetch
from ..models.checks import size
from .lazy_model import LazyModel
from .photo_readers import registered

_CONFIGS, _WEIGHTS = ("config.json", "preprocessor_config.json"), ("model.safetensors", "pytorch_model.bin")


class VisionModel(LazyModel):
    """Image tower of CLIP, or of a timm model such as EVA02-CLIP by transformers' wrapper, loaded on first use.

    Args:
        name: A Hub repo or a folder.
        num_scales: Number of feature maps, evenly spaced over the depth: after 4, 8, 12, 16 and 20 blocks of 24.
        dtype: Precision of its arithmetic; None is bfloat16 on a GPU and float32 elsewhere.
        kwargs: For a Hub repo: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        TypeError: If a setting is of another type.
        ValueError: If the name is that of a photo reader, which brings a vision model of its own, or of nothing, or if
            num_scales is less than 1.
    """

    def __init__(self, name: str | os.PathLike, num_scales: int = 5, dtype: torch.dtype | None = None, **kwargs):
        super().__init__()
        if registered(name) is not None:
            raise ValueError(
                f"'{name}' is a photo reader and no Hub repo of a ViT. Use FaceProcessor.for_encoder with an encoder "
                "that was trained with it, or give a repo or a folder."
            )
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"dtype is {dtype!r}, but must be a floating-point torch.dtype, or None.")
        self.name, self.num_scales, self.dtype = os.fspath(name), size("num_scales", num_scales), dtype
        self._kwargs = kwargs
        self._config = self._processor = None

    @property
    def image_size(self) -> int:
        """Side s of the images; reads the model's config, or downloads it first."""
        self._read_configs()
        if self._config.model_type == "timm_wrapper":
            return self._processor.data_config["input_size"][-1]
        return getattr(self._config, "vision_config", self._config).image_size

    def find_fingerprint(self) -> str:
        """Return the fingerprint of a folder's files, or a Hub repo's commit if it is in the cache."""
        if os.path.isdir(self.name):
            paths = map(Path(self.name).joinpath, (*_CONFIGS, *_WEIGHTS))
            source = sampled_digest(*(path for path in paths if path.is_file()))
        else:
            revision = self._kwargs.get("revision")
            config = try_to_load_from_cache(self.name, "config.json", self._kwargs.get("cache_dir"), revision)
            source = f"{self.name}@{Path(config).parent.name if isinstance(config, str) else revision}"
        return f"{source} {self.num_scales} {self.dtype}"

    @property
    def compute_dtype(self) -> torch.dtype:
        return self.dtype or (torch.bfloat16 if self.device.type == "cuda" else torch.float32)

    @torch.no_grad()
    def encode(self, images: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        """Return features of images (m, s, s, 3), uint8, RGB.

        Returns:
            Embeddings (m, projection) of length 1, and num_scales feature maps (m, p, c), in float32 on the device.

        Raises:
            OSError: If the model is missing and its download failed.
            ValueError: If it has fewer blocks than feature maps.
        """
        with self.in_use() as model:
            pixels = torch.tensor(images, device=self.device).permute(0, 3, 1, 2).float() / 255
            pixels = ((pixels - self._statistic("mean")) / self._statistic("std")).to(self.compute_dtype)
            embeds, hidden = (self._timm if self._config.model_type == "timm_wrapper" else self._clip)(model, pixels)
        return nn.functional.normalize(embeds.float(), dim=-1), [h.float() for h in hidden]

    def load(self) -> nn.Module:
        """Return the model with its weights, downloaded first if they are missing.

        Raises:
            OSError: If they are missing and their download failed.
            ValueError: If they are damaged, or of another model.
        """
        self._read_configs()
        cls = CLIPVisionModelWithProjection
        if self._config.model_type == "timm_wrapper":
            from transformers import TimmWrapperForImageClassification as cls  # imports timm, which takes a second
        # Not every repo has a safetensors file. weights_only reads tensors from a pickle and runs nothing of it.
        safe, pickled = _WEIGHTS
        for file in _WEIGHTS:
            folder = fetch(self.name, [file], **self._kwargs)
            if (folder / file).is_file():
                break
        else:
            raise OSError(f"'{folder}' has neither {safe} nor {pickled}: put the weights of '{self.name}' there.")
        try:
            model, info = cls.from_pretrained(
                folder,
                use_safetensors=file == safe,
                weights_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except Exception as error:  # of a damaged file torch raises whatever its bytes lead to
            reason = str(error).partition(". ")[0][:200]  # without its advice to read the file unsafely
            raise ValueError(
                f"'{folder / file}' is damaged, or of another model ({reason}): fetch it again."
            ) from error
        wrong = sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])})
        if wrong:
            raise ValueError(
                f"'{folder / file}' does not hold the weights of this {cls.__name__}: {', '.join(wrong[:4])} are "
                "missing or of another shape. Fetch it again, with its config.json."
            )
        return model

    def _clip(self, model: nn.Module, pixels: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        out = model(pixels, output_hidden_states=True)
        return out.image_embeds, [out.hidden_states[depth] for depth in self._depths(len(out.hidden_states) - 1)]

    def _timm(self, model: nn.Module, pixels: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        blocks = [depth - 1 for depth in self._depths(len(model.timm_model.blocks))]
        out = model(pixels, output_hidden_states=blocks, output_fmt="NLC", return_prefix_tokens=True)
        return out.logits, [torch.cat([prefix, patches], dim=1) for patches, prefix in out.hidden_states]

    def _depths(self, blocks: int) -> list[int]:
        if blocks <= self.num_scales:
            raise ValueError(f"'{self.name}' has {blocks} blocks, too few for {self.num_scales} feature maps.")
        return [blocks * (i + 1) // (self.num_scales + 1) for i in range(self.num_scales)]

    def _statistic(self, name: str) -> Tensor:
        timm = getattr(self._processor, "data_config", None)
        value = timm[name] if timm is not None else getattr(self._processor, f"image_{name}")
        return torch.tensor(value, device=self.device)[:, None, None]

    def _read_configs(self) -> None:
        if self._processor is not None:
            return
        folder = fetch(self.name, _CONFIGS, **self._kwargs)
        if not (folder / "config.json").is_file():
            raise OSError(f"'{folder}' has no config.json: put the files of '{self.name}' there, or name its folder.")
        try:
            self._config = AutoConfig.from_pretrained(folder)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"'{folder / 'config.json'}' is damaged ({error!r}): fetch it again.") from error
        if self._config.model_type == "timm_wrapper":
            require("timm", "face")
        elif self._config.model_type not in ("clip", "clip_vision_model"):
            raise ValueError(
                f"'{self.name}' is a {self._config.model_type}, but vision models are CLIP's and timm's: write an "
                "object with encode(images) around another one."
            )
        self._processor = AutoImageProcessor.from_pretrained(folder)
