"""facexlib's detector, parser and alignment; no other file imports facexlib."""

# n faces of a photo · h w pixels

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..extras import require
from ..files.digests import sampled_digest
from .components import ALIGNED_SIZE, CELEBAMASK_TO_COMPONENT, GREY
from .lazy_model import LazyModel, check_download
from .parts import DetectedFace

_RELEASES = "https://github.com/xinntao/facexlib/releases/download/"
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Eyes, nose and corners of the mouth of FFHQ's mean face in 512 × 512 pixels: facexlib's template for five landmarks.
FFHQ_LANDMARKS = np.array(
    [[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935], [201.26117, 371.41043],
     [313.08905, 371.15118]]
)  # fmt: skip


class FacexlibModel(LazyModel):
    """A torch model of facexlib, whose `.pth` file is downloaded on first use.

    Args:
        weights_dir: Where the file is, or is downloaded to; facexlib's own folder if None.
    """

    url: str

    def __init__(self, weights_dir: str | os.PathLike | None = None):
        super().__init__()
        self.weights_dir = weights_dir

    @property
    def path(self) -> Path:
        """The weights' file."""
        default = Path(require("facexlib", "face").__file__).parent / "weights"
        return Path(self.weights_dir or default).expanduser() / self.url.rsplit("/", 1)[1]

    def find_fingerprint(self) -> str:
        """Return the fingerprint of the file; its address if it is not downloaded yet."""
        return sampled_digest(self.path) if self.path.is_file() else self.url

    def build(self) -> nn.Module:
        """Return the model with random weights."""
        raise NotImplementedError

    def load(self) -> nn.Module:
        """Read the file, or download it first.

        Raises:
            OSError: If it is missing and its download failed.
            ValueError: If it is damaged, or holds other weights.
        """
        path = self.path
        fetched = not path.is_file()
        if fetched:
            check_download(self.url, path)
            misc = require("facexlib.utils.misc", "face")
            misc.load_file_from_url(self.url, save_dir=str(path.parent))
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
            module = self.build()
            module.load_state_dict(weights)
        except Exception as error:  # of a damaged file torch raises whatever its bytes lead to
            if fetched:  # a download that broke off
                path.unlink(missing_ok=True)
            raise ValueError(
                f"'{path}' is damaged, or not the weights of {type(self).__name__} ({str(error)[:300]}). Delete "
                f"it, and get it again from {self.url}."
            ) from error
        return module


class RetinaFace(FacexlibModel):
    """facexlib's detector, for faces that insightface misses; loaded on first use."""

    url = f"{_RELEASES}v0.1.0/detection_Resnet50_Final.pth"
    max_side = 1280  # it works at full size: a photo of 12 million pixels would take a minute on a CPU

    def build(self) -> nn.Module:
        """Return RetinaFace on a ResNet-50."""
        return require("facexlib.detection.retinaface", "face").RetinaFace("resnet50", device=torch.device("cpu"))

    @torch.no_grad()
    def detect(self, image: np.ndarray) -> list[DetectedFace]:
        """Find the faces in an image (h, w, 3), uint8, RGB."""
        cv2 = require("cv2", "face")
        scale = min(1, self.max_side / max(image.shape))
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
        with self.in_use() as model:
            model.device, model.mean_tensor = self.device, model.mean_tensor.to(self.device)  # neither follows .to()
            rows = model.detect_faces(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        return [DetectedFace(row[:4] / scale, float(row[4]), row[5:15].reshape(5, 2) / scale) for row in rows]


class BiSeNet(FacexlibModel):
    """facexlib's parser of the 19 classes of CelebAMask-HQ; loaded on first use."""

    url = f"{_RELEASES}v0.2.0/parsing_bisenet.pth"

    def build(self) -> nn.Module:
        """Return BiSeNet for 19 classes."""
        return require("facexlib.parsing.bisenet", "face").BiSeNet(num_class=len(CELEBAMASK_TO_COMPONENT))

    @torch.no_grad()
    def parse(self, aligned: np.ndarray) -> np.ndarray:
        """Return the component map (512, 512), uint8, 0 to 6, of an aligned face (512, 512, 3), uint8, RGB."""
        with self.in_use() as model:
            pixels = torch.tensor(aligned, device=self.device).permute(2, 0, 1)[None].float() / 255
            mean, std = (torch.tensor(v, device=self.device)[:, None, None] for v in _IMAGENET)
            classes = model((pixels - mean) / std)[0].argmax(1)[0]
            return torch.from_numpy(CELEBAMASK_TO_COMPONENT).to(self.device)[classes].cpu().numpy()


class FaceAligner:
    """facexlib's alignment: the similarity that brings five landmarks to FFHQ's, by least median of squares."""

    fingerprint = "facexlib"

    def align(self, image: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cut out a face.

        Args:
            image: (h, w, 3), uint8, RGB.
            landmarks: (5, 2), in pixels.

        Returns:
            The aligned face, (512, 512, 3), uint8, grey beside the photo, and the matrix (2, 3) from the photo's
            pixels to its own.

        Raises:
            ValueError: If the landmarks lie in one point.
        """
        cv2 = require("cv2", "face")
        landmarks = np.asarray(landmarks, np.float64)
        matrix = cv2.estimateAffinePartial2D(landmarks, FFHQ_LANDMARKS, method=cv2.LMEDS)[0]
        if matrix is None:
            raise ValueError(f"This face cannot be aligned by its landmarks {landmarks.tolist()}. Give five points.")
        size = ALIGNED_SIZE, ALIGNED_SIZE
        aligned = cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_CONSTANT, borderValue=GREY)
        return aligned, matrix
