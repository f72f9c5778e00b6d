"""insightface's detector and recognizer, run by onnxruntime; no other file imports either.

insightface's model packs may be used for research alone. `README.md` in this folder says which licence others have.
"""

# n faces of a photo · h w pixels

import logging
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import torch

from ..extras import require
from ..files.digests import sampled_digest
from .lazy_model import Lazy, check_download
from .parts import DetectedFace

logger = logging.getLogger(__name__)


class InsightFace(Lazy):
    """Detector and recognizer of one of insightface's model packs, loaded on first use.

    onnxruntime cannot move a model between devices, so with `offload` it works on the CPU.

    Args:
        pack: The name of a pack, such as "antelopev2", or its folder.
        cache_dir: Where a pack is downloaded to; "~/.insightface" if None.
    """

    def __init__(self, pack: str | os.PathLike = "antelopev2", cache_dir: str | os.PathLike | None = None):
        super().__init__()
        self.pack, self.cache_dir = os.fspath(pack), Path(cache_dir or "~/.insightface").expanduser()
        self._analysis = None

    def find_fingerprint(self) -> str:
        """Return the fingerprint of the pack's files; its name and place if it is not downloaded yet."""
        folder = self._folder
        return sampled_digest(*sorted(folder.glob("*.onnx"))) if folder else f"{self.pack} in {self.cache_dir}"

    def place(self, device: torch.device, offload: bool = False) -> None:
        """Work on `device` from now on, or on the CPU if `offload`."""
        device = torch.device("cpu") if offload else device
        if device != self.device:
            self.device, self._analysis = device, None

    def detect(self, image: np.ndarray) -> list[DetectedFace]:
        """Find the faces in an image (h, w, 3), uint8, RGB.

        Raises:
            OSError: If the pack is missing and its download failed.
            ValueError: If the pack is damaged, or its detector finds no landmarks.
        """
        boxes, landmarks = self._model("detection").detect(_bgr(image))
        if landmarks is None:
            raise ValueError(f"The detector of '{self._folder}' finds no landmarks. Use another pack.")
        return [DetectedFace(box[:4], float(box[4]), points) for box, points in zip(boxes, landmarks, strict=True)]

    def embed(self, image: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
        """Return the identity embedding, (512,), float32, of the face at `landmarks`; of the whole image if None.

        Args:
            image: (h, w, 3), uint8, RGB.
            landmarks: (5, 2), in pixels, or None.

        Raises:
            OSError: If the pack is missing and its download failed.
            ValueError: If the pack is damaged or has no recognizer.
        """
        model = self._model("recognition")
        if landmarks is not None:
            image = require("insightface.utils.face_align", "face").norm_crop(image, landmarks, model.input_size[0])
        return model.get_feat(_bgr(image)).flatten()

    @property
    def _folder(self) -> Path | None:
        """The pack's folder, if it exists: antelopev2's archive holds a folder of its own name."""
        named = Path(self.pack) if os.path.isdir(self.pack) else self.cache_dir / "models" / self.pack
        return next((f for f in (named, named / named.name) if any(f.glob("*.onnx"))), None)

    def _model(self, task: str):
        with self._lock:
            if self._analysis is None:
                self._analysis, self._fingerprint = self._load(), self.find_fingerprint()
            if task not in self._analysis.models:
                raise ValueError(f"'{self._folder}' has no model for {task}. Use another pack, or another object.")
            return self._analysis.models[task]

    def _load(self):
        app = require("insightface.app", "face")
        if self._folder is None:
            if os.path.isdir(self.pack):
                raise FileNotFoundError(f"'{self.pack}' has no .onnx files. Give the folder of a model pack.")
            if Path(self.pack).name != self.pack:
                raise FileNotFoundError(f"'{self.pack}' does not exist. Give the folder of a model pack, or its name.")
            self._download()
        options = require("onnxruntime", "face").SessionOptions()
        # Threads that wait by spinning would take the processor from PyTorch's after each call.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            analysis = app.FaceAnalysis(
                str(self._folder), allowed_modules=["detection", "recognition"],
                providers=execution_providers(self.device), sess_options=options,
            )  # fmt: skip
        except AssertionError as error:  # insightface's way to say so
            raise ValueError(f"'{self._folder}' has no model for detection. Use another pack.") from error
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise ValueError(
                f"The model pack '{self._folder}' is damaged, or is none ({error!r}). Get it again."
            ) from error
        analysis.prepare(ctx_id=0 if self.device.type != "cpu" else -1)
        return analysis

    def _download(self) -> None:
        storage = require("insightface.utils.storage", "face")
        target = self.cache_dir / "models" / self.pack
        archive, url = target.with_name(f"{self.pack}.zip"), f"{storage.BASE_REPO_URL}/{self.pack}.zip"
        there = target.is_dir()
        check_download(url, target)
        try:
            storage.download("models", self.pack, force=True, root=str(self.cache_dir))
            if self._folder is None:
                raise OSError("it holds no .onnx files")
        except BaseException as error:
            if not there:  # half a model pack would pass for a whole one
                shutil.rmtree(target, ignore_errors=True)
            if not isinstance(error, OSError | RuntimeError | zipfile.BadZipFile):
                raise
            raise OSError(f"Could not download '{url}' ({error}). Try again, or unpack it to '{target}'.") from error
        finally:
            archive.unlink(missing_ok=True)  # as large as the pack


def execution_providers(device: torch.device) -> list:
    """Return onnxruntime's providers for a torch device, of those that this build has; the CPU is the last."""
    available = require("onnxruntime", "face").get_available_providers()
    cuda = ["ROCMExecutionProvider", "MIGraphXExecutionProvider"] if torch.version.hip else ["CUDAExecutionProvider"]
    wanted = {"cuda": cuda, "mps": ["CoreMLExecutionProvider"]}.get(device.type, [])
    found = [name for name in wanted if name in available][:1]
    if wanted and not found:
        logger.info("onnxruntime has no %s: faces are detected on the CPU.", " or ".join(wanted))
    if found and device.type == "cuda":
        found = [(found[0], {"device_id": device.index or 0})]
    return [*found, "CPUExecutionProvider"]


def _bgr(image: np.ndarray) -> np.ndarray:
    cv2 = require("cv2", "face")
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
