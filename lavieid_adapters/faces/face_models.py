"""The parts of a face processor that insightface and facexlib give; no other file knows these two."""

# n faces of a photo · h w pixels

import logging
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import requests
import torch
from huggingface_hub import is_offline_mode
from torch import nn

from ..extras import require
from ..files.digests import sampled_digest
from .components import CELEBAMASK_TO_COMPONENT
from .lazy_model import Lazy, LazyModel
from .parts import DetectedFace

logger = logging.getLogger(__name__)

_FACEXLIB = "https://github.com/xinntao/facexlib/releases/download/"
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Where FFHQ's eyes, nose and corners of the mouth lie in 512 × 512 pixels: facexlib's template for five landmarks.
FFHQ_LANDMARKS = np.array(
    [[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935], [201.26117, 371.41043],
     [313.08905, 371.15118]]
)  # fmt: skip


def execution_providers(device: torch.device) -> list:
    """onnxruntime's providers for a torch device, as far as this build of onnxruntime has them; the CPU is the last."""
    available = require("onnxruntime", "face").get_available_providers()
    cuda = ["ROCMExecutionProvider", "MIGraphXExecutionProvider"] if torch.version.hip else ["CUDAExecutionProvider"]
    wanted = {"cuda": cuda, "mps": ["CoreMLExecutionProvider"]}.get(device.type, [])
    found = [name for name in wanted if name in available][:1]
    if wanted and not found:
        logger.info("onnxruntime has no %s: faces are detected on the CPU.", " or ".join(wanted))
    if found and device.type == "cuda":
        found = [(found[0], {"device_id": device.index or 0})]
    return [*found, "CPUExecutionProvider"]


class InsightFace(Lazy):
    """Detection and identity embedding by one of insightface's model packs, loaded on first use.

    onnxruntime cannot move a model, so with `offload` it works on the CPU.

    Args:
        pack: The name of a pack, such as "antelopev2", or its folder.
        cache_dir: Where a pack is downloaded to; "~/.insightface" if None.
    """

    def __init__(self, pack: str | os.PathLike = "antelopev2", cache_dir: str | os.PathLike | None = None):
        super().__init__()
        self.pack, self.cache_dir = os.fspath(pack), Path(cache_dir or "~/.insightface").expanduser()
        self._analysis = None

    def find_fingerprint(self) -> str:
        """That of the pack's files, or its name and place if it is not there yet."""
        folder = self._folder
        return sampled_digest(*sorted(folder.glob("*.onnx"))) if folder else f"{self.pack} in {self.cache_dir}"

    def place(self, device: torch.device, offload: bool = False) -> None:
        """Work on `device` from now on, or on the CPU if `offload`."""
        device = torch.device("cpu") if offload else device
        if device != self.device:
            self.device, self._analysis = device, None

    def detect(self, image: np.ndarray) -> list[DetectedFace]:
        """Find the faces in an image (h, w, 3), uint8, RGB."""
        boxes, landmarks = self._model("detection").detect(_bgr(image))
        if landmarks is None:
            raise ValueError(f"The detector of '{self._folder}' finds no landmarks: use another pack.")
        return [DetectedFace(box[:4], float(box[4]), points) for box, points in zip(boxes, landmarks, strict=True)]

    def embed(self, image: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
        """The identity embedding, (512,), float32, of the face at `landmarks`; of the whole image if None."""
        model = self._model("recognition")
        if landmarks is not None:
            image = require("insightface.utils.face_align", "face").norm_crop(image, landmarks, model.input_size[0])
        return model.get_feat(_bgr(image)).flatten()

    @property
    def _folder(self) -> Path | None:
        """The pack's folder, if it is there: antelopev2's archive holds a folder of its own name."""
        named = Path(self.pack) if os.path.isdir(self.pack) else self.cache_dir / "models" / self.pack
        return next((f for f in (named, named / named.name) if any(f.glob("*.onnx"))), None)

    def _model(self, task: str):
        with self._lock:
            if self._analysis is None:
                self._analysis, self._fingerprint = self._load(), self.find_fingerprint()
            if task not in self._analysis.models:
                raise ValueError(f"'{self._folder}' has no model for {task}: use another pack, or another object.")
            return self._analysis.models[task]

    def _load(self):
        app = require("insightface.app", "face")
        if self._folder is None:
            if os.path.isdir(self.pack):
                raise FileNotFoundError(f"'{self.pack}' has no .onnx files: give the folder of a model pack.")
            if Path(self.pack).name != self.pack:
                raise FileNotFoundError(f"'{self.pack}' is not there: give the folder of a model pack, or its name.")
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
            raise ValueError(f"'{self._folder}' has no model for detection: use another pack.") from error
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise ValueError(f"The model pack '{self._folder}' is damaged, or is none ({error!r}).") from error
        analysis.prepare(ctx_id=0 if self.device.type != "cpu" else -1)
        return analysis

    def _download(self) -> None:
        storage = require("insightface.utils.storage", "face")
        target = self.cache_dir / "models" / self.pack
        archive, url = target.with_name(f"{self.pack}.zip"), f"{storage.BASE_REPO_URL}/{self.pack}.zip"
        there = target.is_dir()
        _check_download(url, target)
        try:
            storage.download("models", self.pack, force=True, root=str(self.cache_dir))
            if self._folder is None:
                raise OSError("it holds no .onnx files")
        except BaseException as error:
            if not there:  # half a model pack would pass for a whole one
                shutil.rmtree(target, ignore_errors=True)
            if not isinstance(error, OSError | RuntimeError | zipfile.BadZipFile):
                raise
            raise OSError(f"'{url}' cannot be had ({error}): try again, or unpack it to '{target}'.") from error
        finally:
            archive.unlink(missing_ok=True)  # as large as the pack


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
        """That of the file, or its address if it is not there yet."""
        return sampled_digest(self.path) if self.path.is_file() else self.url

    def build(self) -> nn.Module:
        """The model with random weights."""
        raise NotImplementedError

    def load(self) -> nn.Module:
        """Read the file, or download it first.

        Raises:
            OSError: If it is not there and cannot be had.
            ValueError: If it is damaged, or holds other weights.
        """
        path = self.path
        fetched = not path.is_file()
        if fetched:
            _check_download(self.url, path)
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
                f"'{path}' is damaged, or not the weights of {type(self).__name__} ({str(error)[:300]}): delete it, "
                f"and get it again from {self.url}."
            ) from error
        return module


class RetinaFace(FacexlibModel):
    """facexlib's detector: what insightface misses."""

    url = f"{_FACEXLIB}v0.1.0/detection_Resnet50_Final.pth"
    max_side = 1280  # it works at full size: a photo of 12 million pixels would take a minute on a CPU

    def build(self) -> nn.Module:
        """RetinaFace on a ResNet-50."""
        return require("facexlib.detection.retinaface", "face").RetinaFace("resnet50", device=torch.device("cpu"))

    @torch.no_grad()
    def detect(self, image: np.ndarray) -> list[DetectedFace]:
        """Find the faces in an image (h, w, 3), uint8, RGB."""
        cv2 = require("cv2", "face")
        scale = min(1, self.max_side / max(image.shape))
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
        with self.in_use() as model:
            model.device, model.mean_tensor = self.device, model.mean_tensor.to(self.device)  # neither follows .to()
            rows = model.detect_faces(_bgr(small))
        return [DetectedFace(row[:4] / scale, float(row[4]), row[5:15].reshape(5, 2) / scale) for row in rows]


class BiSeNet(FacexlibModel):
    """facexlib's parser of the 19 classes of CelebAMask-HQ."""

    url = f"{_FACEXLIB}v0.2.0/parsing_bisenet.pth"

    def build(self) -> nn.Module:
        """BiSeNet for 19 classes."""
        return require("facexlib.parsing.bisenet", "face").BiSeNet(num_class=len(CELEBAMASK_TO_COMPONENT))

    @torch.no_grad()
    def parse(self, aligned: np.ndarray) -> np.ndarray:
        """The component map (512, 512), uint8, 0 to 6, of an aligned face (512, 512, 3), uint8, RGB."""
        with self.in_use() as model:
            pixels = torch.tensor(aligned, device=self.device).permute(2, 0, 1)[None].float() / 255
            mean, std = (torch.tensor(v, device=self.device)[:, None, None] for v in _IMAGENET)
            classes = model((pixels - mean) / std)[0].argmax(1)[0]
            return torch.from_numpy(CELEBAMASK_TO_COMPONENT).to(self.device)[classes].cpu().numpy()


class FaceAligner:
    """facexlib's alignment of five landmarks to FFHQ's, 512 × 512."""

    fingerprint = "facexlib"

    def align(self, image: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cut out a face.

        Args:
            image: (h, w, 3), uint8, RGB.
            landmarks: (5, 2), in pixels.

        Returns:
            The aligned face, (512, 512, 3), uint8, grey where the photo ends, and the matrix (2, 3) from the photo's
            pixels to its own.

        Raises:
            ValueError: If the landmarks lie in one point.
        """
        helper_class = require("facexlib.utils.face_restoration_helper", "face").FaceRestoreHelper
        helper = helper_class.__new__(helper_class)  # its constructor would download a detector and a parser
        helper.clean_all()
        helper.pad_blur, helper.face_size, helper.face_template = False, (512, 512), FFHQ_LANDMARKS
        helper.input_img, helper.all_landmarks_5 = image, [np.asarray(landmarks, np.float64)]
        try:
            helper.align_warp_face()
        except require("cv2", "face").error as error:
            raise ValueError(f"This face cannot be aligned by its landmarks {landmarks.tolist()}.") from error
        return helper.cropped_faces[0], helper.affine_matrices[0]


def _bgr(image: np.ndarray) -> np.ndarray:
    cv2 = require("cv2", "face")
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR)


def _check_download(url: str, target: Path) -> None:
    """Fail within seconds where a download would fail or hang, saying what to put where."""
    reason = "HF_HUB_OFFLINE is set"
    if not is_offline_mode():
        try:
            requests.head(url, timeout=5, allow_redirects=True).raise_for_status()
            return
        except requests.RequestException as error:
            reason = str(error)
    unpacked = " unpacked" if url.endswith(".zip") else ""
    raise OSError(f"'{target}' is not there and cannot be downloaded ({reason}): put {url}{unpacked} there.")
