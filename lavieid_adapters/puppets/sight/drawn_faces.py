"""Detector, parser and recognizer of drawn people: all by one small network."""

# h w pixels of a picture · s side of a view · k classes of a component map

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...faces.components import ALIGNED_SIZE, GREY, warp_picture
from ...faces.lazy_model import LazyModel
from ...faces.parts import DetectedFace
from ...files.digests import sampled_digest
from ...models.identity import FACIAL_COMPONENTS
from .alignment import alignment

VIEW = 128  # side of what the network looks at
_FACE = 0.55  # height of a face without its hair, as a share of the view in which it is looked at closely
_AREA = 40  # pixels of a view that a head has at least
_PART = 3  # and its eyes, or its mouth
_SURE = 0.75  # mean probability of a head's classes below which it is none
_CLASS = {name: i + 1 for i, name in enumerate(FACIAL_COMPONENTS)}


class DrawnFaces(LazyModel):
    """Detector, recognizer and parser of drawn people, by one `FaceNet`.

    Args:
        folder: Of its config and weights.
    """

    def __init__(self, folder: str | os.PathLike):
        super().__init__()
        self.folder = Path(folder)

    def find_fingerprint(self) -> str:
        """Return that of the files."""
        return sampled_digest(*sorted(path for path in self.folder.iterdir() if path.is_file()))

    def load(self) -> torch.nn.Module:
        """Read the weights."""
        from .face_net import FaceNet

        return FaceNet.from_pretrained(self.folder, torch_dtype=torch.float32, local_files_only=True)

    def detect(self, image: np.ndarray) -> list[DetectedFace]:
        """Find the faces in an image (h, w, 3), uint8, RGB: heads on which eyes and a mouth can be seen."""
        picture = Image.fromarray(image)
        frames = _squares(picture.width, picture.height)
        found = self._heads([_view(picture, frame) for frame in frames])
        # A second look at each brings it to the size at which the network was trained.
        frames = [_around(head, frame) for frame, heads in zip(frames, found, strict=True) for head, _ in heads]
        faces = []
        for frame, heads in zip(frames, self._heads([_view(picture, f) for f in frames]), strict=True):
            middle = [(head, score) for head, score in heads if (head[VIEW // 4 : -VIEW // 4] > 0).any()]
            if middle:
                head, score = max(middle, key=_share_of_middle)
                landmarks = face_landmarks(head)
                if landmarks is not None:
                    left, top, right, bottom = _extent(_face_of(head))
                    box = np.array([left, top, right + 1, bottom + 1]) * frame[2] / VIEW + np.tile(frame[:2], 2)
                    faces.append(DetectedFace(box, score, _to_picture(landmarks, frame)))
        return _distinct(faces)

    def embed(self, image: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
        """Return the embedding, (512,), of length 1, of the face at `landmarks`; of the aligned image if None."""
        if landmarks is not None:
            image = warp_picture(image, alignment(landmarks), (ALIGNED_SIZE, ALIGNED_SIZE), GREY)
        return F.normalize(self._look([as_view(image)])[1], dim=-1)[0].cpu().numpy()

    def parse(self, aligned: np.ndarray) -> np.ndarray:
        """Return the component map of an aligned face (512, 512, 3), without what belongs to a neighbour."""
        logits = self._look([as_view(aligned)])[0]
        small = logits[0].argmax(0).cpu().numpy()
        labels = blobs(small > 0)
        counts = np.bincount(labels[VIEW // 4 : -VIEW // 4, VIEW // 4 : -VIEW // 4].ravel(), minlength=2)
        counts[0] = 0
        fine = F.interpolate(logits, aligned.shape[:2], mode="bilinear")[0].argmax(0).to(torch.uint8).cpu().numpy()
        own = Image.fromarray(labels == counts.argmax()).resize(aligned.shape[1::-1], Image.Resampling.NEAREST)
        return fine * np.asarray(own)

    @torch.no_grad()
    def _look(self, views: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Compute logits (n, k, s, s) and identity embeddings (n, 512) of views (s, s, 3), uint8."""
        with self.in_use() as net:
            pixels = torch.from_numpy(np.stack(views)).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            logits, embedding = net(pixels)
        return logits.float(), embedding.float()

    def _heads(self, views: list[np.ndarray]) -> list[list[tuple[np.ndarray, float]]]:
        """Find each view's heads with eyes and a mouth: their own component map (s, s), and how sure it is."""
        if not views:
            return []
        probabilities, classes = self._look(views)[0].softmax(1).max(1)
        found = []
        for probability, small in zip(probabilities.cpu().numpy(), classes.cpu().numpy(), strict=True):
            labels = blobs(small > 0)
            sizes = np.bincount(labels.ravel())
            heads = []
            for label in np.flatnonzero(sizes >= _AREA):
                own = labels == label
                head = np.where(own, small, 0)
                score = float(probability[own].mean())
                if label and score >= _SURE and all((head == _CLASS[n]).sum() >= _PART for n in ("eyes", "mouth")):
                    heads.append((head, score))
            found.append(heads)
        return found


def face_landmarks(component_map: np.ndarray) -> np.ndarray | None:
    """Find eyes, nose and corners of the mouth of the one face in a component map (h, w), by its components.

    Returns:
        x and y, left to right in the picture, (5, 2), in pixels; None without eyes or a mouth.
    """
    eyes, mouth, nose = (component_map == _CLASS[name] for name in ("eyes", "mouth", "nose"))
    opened = _opened(eyes)  # which takes the rims of glasses away
    eyes, mouth, nose = (_pixels(part) for part in (opened if opened.sum() >= _PART else eyes, mouth, nose))
    if len(eyes) < 2 or len(mouth) < 2:
        return None
    line = np.linalg.svd(eyes - eyes.mean(0), full_matrices=False)[2][0]
    line = line * np.sign(line[0] or 1)
    along = eyes @ line
    middle = (along.min() + along.max()) / 2
    left, right = (eyes[part].mean(0) for part in (along <= middle, along >= middle))
    along = mouth @ line
    reach = 1 + 0.05 * np.ptp(along)
    corners = [mouth[part].mean(0) for part in (along <= along.min() + reach, along >= along.max() - reach)]
    down = np.array([-line[1], line[0]])
    along = nose @ down
    low = nose[along >= along.max() - 0.35 * np.ptp(along)] if len(nose) else nose
    tip = low.mean(0) if len(low) else (left + right + corners[0] + corners[1]) / 4
    return np.array([left, right, tip, *corners])


def blobs(shown: np.ndarray) -> np.ndarray:
    """Number the connected parts of a mask (h, w): from 1, of eight neighbours the same, and 0 outside."""
    inside = torch.from_numpy(np.ascontiguousarray(shown))[None].float()
    labels = torch.arange(1.0, inside.numel() + 1).view_as(inside) * inside  # a pixel's own number
    while True:
        before = labels
        labels = F.max_pool2d(labels, 3, stride=1, padding=1) * inside
        # The pixel of that number may know a larger one by now: a part of n pixels takes some log n rounds, not n.
        labels = torch.cat([labels.new_zeros(1), labels.flatten()])[labels.long()]
        if torch.equal(before, labels):
            return np.unique(np.append(labels.numpy(), 0), return_inverse=True)[1][:-1].reshape(shown.shape)


def as_view(aligned: np.ndarray) -> np.ndarray:
    """Show an aligned face (512, 512, 3) as the network looks at it, (128, 128, 3), uint8."""
    return np.asarray(Image.fromarray(aligned).reduce(aligned.shape[0] // VIEW))


def _squares(width: int, height: int) -> list[np.ndarray]:
    """Return left, top and side of the square around a picture, and of overlapping ones in a wide or high one."""
    long, short = max(width, height), min(width, height)
    squares = [np.array([(width - long) / 2, (height - long) / 2, long])]
    count = round(2 * long / short) - 1
    if count > 1:
        for offset in np.linspace(0, long - short, count):
            squares.append(np.array([offset * (width > height), offset * (height > width), short]))
    return squares


def _view(picture: Image.Image, frame: np.ndarray) -> np.ndarray:
    """Cut a square of a picture as a view (s, s, 3); grey where the picture ends.

    Args:
        frame: Left, top and side of the square, in pixels.
    """
    left, top, side = frame
    box = max(left, 0), max(top, 0), min(left + side, picture.width), min(top + side, picture.height)
    scale = VIEW / side
    size = [max(1, round((box[i + 2] - box[i]) * scale)) for i in range(2)]
    view = Image.new("RGB", (VIEW, VIEW), GREY)
    view.paste(
        picture.resize(size, Image.Resampling.BILINEAR, box), [round((box[i] - frame[i]) * scale) for i in (0, 1)]
    )
    return np.asarray(view)


def _around(head: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Find the square in which a head that was found in the view of `frame` is as large as in training."""
    left, top, right, bottom = _extent(_face_of(head))
    side = max(right - left, bottom - top) / _FACE
    corner = np.array([left + right - side, top + bottom - side]) / 2
    return np.append(_to_picture(corner, frame), side * frame[2] / VIEW)


def _to_picture(points: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Map pixels of the view of `frame` to those of the picture, both counted from a pixel's middle."""
    return (points + 0.5) * frame[2] / VIEW + frame[:2] - 0.5


def _face_of(head: np.ndarray) -> np.ndarray:
    return (head > 0) & (head != _CLASS["hair"])


def _opened(shown: np.ndarray) -> np.ndarray:
    """Remove what is less than three pixels wide from a mask (h, w)."""
    mask = torch.from_numpy(shown)[None].float()
    eroded = -F.max_pool2d(-mask, 3, stride=1, padding=1)
    return F.max_pool2d(eroded, 3, stride=1, padding=1)[0].numpy() > 0


def _extent(shown: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _pixels(shown: np.ndarray) -> np.ndarray:
    """Return x and y of the pixels of a mask, (n, 2)."""
    return np.argwhere(shown)[:, ::-1].astype(np.float64)


def _share_of_middle(found: tuple[np.ndarray, float]) -> int:
    return int((found[0][VIEW // 4 : -VIEW // 4, VIEW // 4 : -VIEW // 4] > 0).sum())


def _distinct(faces: list[DetectedFace]) -> list[DetectedFace]:
    """Keep the surest of those of which one has its nose within another: parts of one head, or two heads in one."""
    kept: list[DetectedFace] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if not any(_holds(face, other) or _holds(other, face) for other in kept):
            kept.append(face)
    return kept


def _holds(face: DetectedFace, other: DetectedFace) -> bool:
    nose = other.landmarks[2]
    return bool((face.box[:2] <= nose).all() and (nose <= face.box[2:]).all())
