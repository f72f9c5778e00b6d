"""From a clip to a training sample: the files that a shard keeps of it."""

# f frames · c channels of the latents · h w pixels or latents · n tokens of a prompt · d their width

import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from ..faces.components import PALETTE
from ..faces.parts import FaceFeatures
from ..faces.processor import FaceProcessor
from ..files.digests import content_digest
from .base_encoders import BaseEncoders
from .clips import Clip, Rejected
from .person import find_person
from .video import Bucket, read_frames

# Why a clip cannot be used, as far as neither its file nor its person tells.
EMPTY_CAPTION, NOT_FINITE = "empty caption", "latents are not finite"
PREVIEWS, PREVIEW_WIDTH = 6, 240
_GREY = (128, 128, 128)  # of what is unknown


class SampleMaker:
    """Maker of samples: decodes a clip, finds its person in every frame, and encodes it with the base model.

    Args:
        clips: All clips, among which others of one person are found.
        encoders: The base model's encoders.
        face: Reads faces.
        buckets: Lengths and sizes that clips are cut and resized to.
        fps: Frames per second that are taken of a clip.
        min_face_share: Share of a clip's frames in which a face must be found.
        seed: Seed of the samples that are drawn from the VAE's distributions.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        encoders: BaseEncoders,
        face: FaceProcessor,
        buckets: Sequence[Bucket],
        fps: float,
        min_face_share: float,
        seed: int,
    ):
        self.encoders, self.face, self.buckets, self.fps = encoders, face, buckets, fps
        self.min_face_share, self.seed = min_face_share, seed
        self._of_person = defaultdict(list)
        for clip in clips:
            self._of_person[clip.person].append(clip)

    def make(self, clip: Clip) -> tuple[dict[str, bytes], dict]:
        """Return the files of a sample by their suffixes, and its line of the index.

        Raises:
            Rejected: If the clip cannot be used.
        """
        if not clip.caption.strip():
            raise Rejected(EMPTY_CAPTION)
        frames, seconds = self._read(clip)
        others = () if clip.person is None else self._of_person[clip.person]
        features, reference, maps = find_person(
            self.face, clip, frames, seconds, others, self._read, self.min_face_share
        )
        latents = self.encoders.encode_frames(frames, int(content_digest(self.seed, clip.key)[:15], 16))
        if not latents.isfinite().all():
            raise Rejected(NOT_FINITE, f"in {latents.dtype}")
        tensors = {
            "latents": latents,
            "prompt_embeds": self.encoders.encode_prompt(clip.caption),
            "id_embedding": features.id_embedding,
        }
        size = dict(zip(("frames", "height", "width"), frames.shape[:3], strict=True))
        line = {"video": str(clip.video), "person": clip.person, **size}
        about = {
            **line,
            "caption": clip.caption,
            "reference": reference,
            "fps": self.fps,
            "start": seconds[0],
            "hidden": dict(features.hidden),
            "matrix": features.matrix.tolist(),
        }
        return _members(about, tensors, frames, maps, features), line

    def _read(self, clip: Clip) -> tuple[np.ndarray, list[float]]:
        """Return the frames of a clip, and their times in seconds."""
        frames, _, start = read_frames(clip.folder / clip.video, self.fps, self.buckets)
        return frames, [start + i / self.fps for i in range(len(frames))]


def previewed(frames: int) -> list[int]:
    """Return which of a clip's frames its preview shows."""
    return np.linspace(0, frames - 1, PREVIEWS).round().astype(int).tolist()


def _members(
    about: Mapping, tensors: Mapping[str, Tensor], frames: np.ndarray, maps: np.ndarray, reference: FaceFeatures
) -> dict[str, bytes]:
    return {
        "json": json.dumps(about).encode(),
        "safetensors": save({name: tensor.contiguous() for name, tensor in tensors.items()}),
        "maps.png": _encoded(_palette_image(maps.reshape(-1, maps.shape[2])), "PNG"),
        "aligned.png": _encoded(Image.fromarray(reference.aligned), "PNG"),
        "aligned_map.png": _encoded(_palette_image(reference.component_map), "PNG"),
        "preview.jpg": _encoded(_preview(frames), "JPEG", quality=90),
    }


def _preview(frames: np.ndarray) -> Image.Image:
    height = round(PREVIEW_WIDTH * frames.shape[1] / frames.shape[2])
    strip = Image.new("RGB", (PREVIEWS * PREVIEW_WIDTH, height))
    for i, number in enumerate(previewed(len(frames))):
        shrunk = Image.fromarray(frames[number]).resize((PREVIEW_WIDTH, height), Image.Resampling.LANCZOS)
        strip.paste(shrunk, (i * PREVIEW_WIDTH, 0))
    return strip


def _palette_image(component_map: np.ndarray) -> Image.Image:
    image = Image.fromarray(component_map).convert("P")
    image.putpalette([*sum(PALETTE, ()), *_GREY * (256 - len(PALETTE))])
    return image


def _encoded(image: Image.Image, kind: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()
