"""From a photograph to facial components: a face is found, aligned, parsed into six, and each is embedded."""

# m components · h w pixels of the photo · n its faces · s side of a component's image · p tokens of a ViT · c its width

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..models.checks import finite, switch
from ..models.facial_encoder import CLIP, LocalFacialEncoder
from ..models.identity import FACIAL_COMPONENTS
from .components import (
    ALIGNED_SIZE,
    GREY,
    component_images,
    component_mask,
    hidden_components,
    read_component_map,
    warp_map,
    whole_picture,
)
from .face_choice import check_choice, choose_face
from .facexlib_models import BiSeNet, FaceAligner, RetinaFace
from .insightface_models import InsightFace
from .parts import (
    Aligner,
    DetectedFace,
    Detector,
    FaceFeatures,
    Parser,
    Recognizer,
    VisionEncoder,
    check_part,
    component_features,
)
from .photo import Photo
from .photo_readers import read_with, registered
from .vision import VisionModel

logger = logging.getLogger(__name__)

_OPTIONAL = {"recognizer": Recognizer, "parser": Parser, "vision": VisionEncoder}  # parts that may be left out
# Keywords of from_pretrained that tell where its own models are.
_PLACES = ("model_pack", "vision_model", "weights_dir", "cache_dir", "revision", "token", "local_files_only")


class FaceProcessor:
    """Models that read photographs, each loaded when it is first used and replaceable by an object of its protocol.

    All arguments are attributes that may be set later, with the same checks.

    Args:
        detectors: The first that finds a face decides. None at all leave only `on_no_face="whole_image"`.
        recognizer: None leaves the identity embedding out.
        aligner: facexlib's alignment if None.
        parser: None needs a `component_map` with each photo.
        vision: None leaves the ViT features out.
        grayscale: Take the colours from the components' images, as ConsisID does.
        min_face: Side in pixels that a face needs.
        min_area: Share of the aligned face that a component needs in order to be visible, 0 to 1.

    Raises:
        TypeError: If a part has not the method of its protocol, or a setting is of another type.
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        detectors: Sequence[Detector],
        recognizer: Recognizer | None = None,
        aligner: Aligner | None = None,
        parser: Parser | None = None,
        vision: VisionEncoder | None = None,
        *,
        grayscale: bool = False,
        min_face: float = 64,
        min_area: float = 0.0005,
    ):
        self.detectors, self.recognizer, self.parser, self.vision = detectors, recognizer, parser, vision
        self.aligner = FaceAligner() if aligner is None else aligner
        self.grayscale, self.min_face, self.min_area = grayscale, min_face, min_area

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "detectors":
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise TypeError(f"detectors is {value!r}, but must be a sequence. Give a list of detectors.")
            value = tuple(check_part("detectors", detector, Detector) for detector in value)
        elif name == "aligner" or (name in _OPTIONAL and value is not None):
            value = check_part(name, value, _OPTIONAL.get(name, Aligner))
        elif name == "grayscale":
            value = switch(name, value)
        elif name in ("min_face", "min_area"):
            value, most = finite(name, value), math.inf if name == "min_face" else 1
            if not 0 <= value <= most:
                allowed = "0 or more" if name == "min_face" else "a share, 0 to 1"
                raise ValueError(f"{name} is {value:g}, but must be {allowed}.")
        super().__setattr__(name, value)

    @classmethod
    def from_pretrained(
        cls,
        model_pack: str | os.PathLike = "antelopev2",
        vision_model: str | os.PathLike = CLIP,
        *,
        num_scales: int = 5,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        weights_dir: str | os.PathLike | None = None,
        cache_dir: str | os.PathLike | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **parts: Any,
    ) -> "FaceProcessor":
        """Return the processor of insightface's detector and recognizer, facexlib's RetinaFace for faces that those
        miss, its alignment and BiSeNet, and a ViT of transformers. Nothing is loaded or downloaded yet.

        Args:
            model_pack: Name or folder of an insightface model pack.
            vision_model: Hub repo or folder of CLIP or of a timm model.
            num_scales: Number of the ViT's feature maps.
            dtype: In which the ViT computes; None is bfloat16 on a GPU and float32 elsewhere.
            device: Where the models work.
            weights_dir: Folder of facexlib's `.pth` files; `cache_dir`, or facexlib's own, if None.
            cache_dir: Where downloads go instead of where each library puts them.
            revision, token, local_files_only: For the ViT's Hub repo.
            parts: Arguments of the constructor that take the place of these models.

        Raises:
            ValueError: If `vision_model` is the name of a photo reader, or of nothing.
        """
        insightface, weights_dir = InsightFace(model_pack, cache_dir), weights_dir or cache_dir
        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        defaults = {
            "detectors": (insightface, RetinaFace(weights_dir)),
            "recognizer": insightface,
            "parser": BiSeNet(weights_dir),
            "vision": VisionModel(vision_model, num_scales, dtype, **hub),
        }
        return cls(**{**defaults, **parts}).to(device)

    @classmethod
    def for_encoder(cls, encoder: LocalFacialEncoder, **kwargs: Any) -> "FaceProcessor":
        """Return the processor of the features that an encoder takes.

        Its config names either a ViT, which goes into `from_pretrained` with the number of feature maps and the
        colours, or a photo reader of an installed package, which brings all models.

        Args:
            encoder: Of it, the config alone is read.
            kwargs: As for `from_pretrained`. Those that tell where its models are do nothing beside a photo reader.

        Raises:
            ValueError: If the vision model is neither a repo, nor a folder, nor a photo reader, or if `kwargs` names
                a photo reader that is not the encoder's.
            ImportError: If the photo reader's package is damaged.
        """
        c = encoder.config
        wanted = {"vision_model": c.vision_model, "num_scales": c.num_scales, "grayscale": c.grayscale, **kwargs}
        reader = registered(wanted["vision_model"])
        if reader is None:
            return cls.from_pretrained(**wanted)
        if c.vision_model != wanted["vision_model"]:
            raise ValueError(
                f"'{reader.name}' is a photo reader, but this encoder was trained with '{c.vision_model}'. Leave "
                "vision_model out, or give a repo or a folder of that model."
            )
        device, num_scales, dtype = wanted.pop("device", "cpu"), wanted.pop("num_scales"), wanted.pop("dtype", None)
        wanted = {name: value for name, value in wanted.items() if name not in _PLACES}
        return cls(**{**read_with(reader, num_scales, dtype), **wanted}).to(device)

    @property
    def parts(self) -> list[Any]:
        """The models, without those that are left out."""
        return list({id(part): part for part in self._roles if part is not None}.values())

    @property
    def _roles(self) -> tuple[Any, ...]:
        return (*self.detectors, self.recognizer, self.aligner, self.parser, self.vision)

    @property
    def fingerprint(self) -> str | None:
        """A text that differs from another processor's if its results may; None if a part has no fingerprint."""
        of_parts = ["" if part is None else getattr(part, "fingerprint", None) for part in self._roles]
        return None if None in of_parts else repr((of_parts, self.grayscale, self.min_face, self.min_area))

    def to(self, device: str | torch.device, offload: bool = False) -> "FaceProcessor":
        """Let the models work on `device`, and rest on the CPU between uses if `offload`."""
        for part in self.parts:
            if hasattr(part, "place"):
                part.place(torch.device(device), offload)
        return self

    @torch.no_grad()
    def __call__(
        self,
        image,
        *,
        face_index: int | str | None = None,
        on_no_face: str = "raise",
        component_map=None,
    ) -> FaceFeatures:
        """Read one face in a photo.

        Args:
            image: A path, an http(s) URL, a PIL image, an open binary file, or an array (h, w), (h, w, 3) or (h, w,
                4) in RGB order of uint8, uint16, or floats from 0 to 1.
            face_index: The face, counted from left to right, or "largest"; needed where there are several.
            on_no_face: "raise", or "whole_image": then the whole picture, on grey and 512 × 512, is the aligned face.
            component_map: A segmentation of the whole photo, of its size, instead of the parser's: a palette or grey
                image, its path, or an array of class ids; 0 for nothing, 1 to 6 for `FACIAL_COMPONENTS`.

        Returns:
            The features, those of the ViT on its device.

        Raises:
            ValueError, TypeError: If a setting is none of these, or if the photo cannot be read, shows no face or
                several, a face that is too small, or none of the components; the message holds the boxes.
            OSError: If the photo or a model is missing and its download failed.
        """
        check_choice(face_index, on_no_face)
        if component_map is None and self.parser is None:
            raise ValueError("This processor has no parser: give a component_map with the photo.")
        photo = image if isinstance(image, Photo) else Photo(image)
        pixels = photo.pixels
        height, width = pixels.shape[:2]
        if component_map is not None:
            component_map = read_component_map(component_map, photo.size)
            if photo.size != (width, height):  # a large photo is scaled down
                component_map = np.asarray(Image.fromarray(component_map).resize((width, height), Image.NEAREST))

        faces = self.detect(pixels)
        index = choose_face(faces, face_index, on_no_face, self.min_face, photo.name)
        face = None if index is None else faces[index]
        if face is None:
            aligned, matrix = whole_picture(pixels, ALIGNED_SIZE, GREY)
        else:
            aligned, matrix = self.aligner.align(pixels, face.landmarks)
        with ThreadPoolExecutor(1) as pool:
            # onnxruntime is often on the CPU, which has nothing else to do while the parser and the ViT work on a GPU.
            embedding = pool.submit(self._recognise, pixels, aligned, face)
            component_map = self._parse(aligned, matrix, component_map, (height, width))
            hidden = hidden_components(component_map, self.min_area)
            if len(hidden) == len(FACIAL_COMPONENTS):
                raise ValueError(
                    f"{photo.name} shows none of the facial components: use a photo of the face from the front, or "
                    "give a component_map."
                )
            images = component_images(aligned, component_map, hidden, self._image_size, self.grayscale)
            vit_embeds, vit_hidden_states = self._see(images, hidden)
        return FaceFeatures(
            aligned,
            component_map,
            images,
            hidden,
            matrix,
            boxes=np.array([f.box for f in faces], np.float32).reshape(-1, 4),
            face_index=index,
            landmarks=None if face is None else face.landmarks,
            score=None if face is None else face.score,
            id_embedding=embedding.result(),
            vit_embeds=vit_embeds,
            vit_hidden_states=vit_hidden_states,
            photo_size=(width, height),
        )

    def detect(self, pixels: np.ndarray) -> list[DetectedFace]:
        """Return the faces in an image (h, w, 3), uint8, RGB, from left to right, by the first detector that finds any.

        Raises:
            OSError: If a model is missing and its download failed.
        """
        for i, detector in enumerate(self.detectors):
            try:
                faces = detector.detect(pixels)
            except OSError as error:
                if i == 0:
                    raise
                # Its weights are missing. Another detector has looked, so the answer stands without it.
                logger.warning("The fallback %s was not asked: %s", type(detector).__name__, error)
                continue
            if faces:
                return sorted(faces, key=lambda face: float(face.box[0]))
        return []

    @property
    def _image_size(self) -> int:
        return ALIGNED_SIZE if self.vision is None else self.vision.image_size

    def _parse(
        self, aligned: np.ndarray, matrix: np.ndarray, component_map: np.ndarray | None, size: tuple[int, int]
    ) -> np.ndarray:
        """The component map of the aligned face: the user's, or the parser's without what lies beside the photo."""
        source = np.ones(size, np.uint8) if component_map is None else component_map
        brought = warp_map(source, matrix, aligned.shape[1::-1])
        if component_map is not None:
            return brought
        return brought * read_component_map(self.parser.parse(aligned), aligned.shape[1::-1])

    @torch.no_grad()  # which is a thread's own
    def _recognise(self, pixels: np.ndarray, aligned: np.ndarray, face: DetectedFace | None) -> Tensor | None:
        if self.recognizer is None:
            return None
        embedding = self.recognizer.embed(*((aligned, None) if face is None else (pixels, face.landmarks)))
        embedding = torch.as_tensor(embedding, dtype=torch.float32).cpu()
        if embedding.ndim != 1 or not embedding.isfinite().all():
            raise ValueError(
                f"The recognizer gave an embedding of shape {tuple(embedding.shape)} with "
                f"{(~embedding.isfinite()).sum()} values that are not finite, but must give one finite vector."
            )
        return embedding

    def _see(
        self, images: np.ndarray, hidden: Mapping[str, str]
    ) -> tuple[Tensor, tuple[Tensor, ...]] | tuple[None, None]:
        if self.vision is None:
            return None, None
        return component_features(self.vision, images, component_mask(hidden))
