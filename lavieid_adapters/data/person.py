"""The person of a clip: the reference that shows who it is, and the person's components in every frame."""

# f frames · h w pixels

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from ..faces.components import UNKNOWN, read_component_map, warp_map
from ..faces.parts import DetectedFace, FaceFeatures
from ..faces.photo import Photo
from ..faces.processor import FaceProcessor
from .clips import Clip, Rejected

# Why a clip cannot be used, as far as its person tells.
NO_FACE, NO_REFERENCE, BAD_REFERENCE = "no face", "no face in the reference", "unreadable reference"
_SIDE, _SHARP = 128, 100.0  # pixels of a face whose sharpness is read, and the variance that is half sharp
_NOSE = 0.56  # where the nose's tip is between eyes and mouth, 0 to 1, from the front
_TRIED = 8  # frames, best first, before a clip is given up
_STRIDE = 4  # of the frames of another clip in which a reference is looked for


def reference_score(image: np.ndarray, face: DetectedFace) -> float:
    """Return how good a reference a face makes, 0 to 1: detection score × sharpness × frontality.

    Sharpness is v / (v + 100) for the variance v of the Laplacian of the grey face at 128 × 128 pixels. Frontality is
    (1 - |2 a - 1|) (1 - |b - 0.56| / 0.44) for the place of the nose's tip: a from the left eye, 0, to the right, 1,
    and b from the middle of the eyes, 0, to that of the mouth, 1; a negative factor is 0.

    Args:
        image: (h, w, 3), uint8, RGB.
        face: A face in it.
    """
    return float(np.clip(face.score, 0, 1) * _sharpness(image, face.box) * _frontality(face.landmarks))


def _sharpness(image: np.ndarray, box: np.ndarray) -> float:
    height, width = image.shape[:2]
    left, top, right, bottom = box.round().astype(int).clip(0, [width, height, width, height])
    if right <= left or bottom <= top:
        return 0.0
    grey = Image.fromarray(image[top:bottom, left:right]).convert("L").resize((_SIDE, _SIDE))
    g = np.asarray(grey, np.float64)
    laplacian = g[:-2, 1:-1] + g[2:, 1:-1] + g[1:-1, :-2] + g[1:-1, 2:] - 4 * g[1:-1, 1:-1]
    return laplacian.var() / (laplacian.var() + _SHARP)


def _frontality(landmarks: np.ndarray) -> float:
    left, right, nose = landmarks[:3].astype(np.float64)
    eyes, mouth = (left + right) / 2, landmarks[3:].mean(0)
    if np.array_equal(left, right) or np.array_equal(eyes, mouth):
        return 0.0
    across, along = (
        np.dot(nose - start, end - start) / np.dot(end - start, end - start)
        for start, end in ((left, right), (eyes, mouth))
    )
    return max(0, 1 - abs(2 * across - 1)) * max(0, 1 - abs(along - _NOSE) / (1 - _NOSE))


def find_person(
    processor: FaceProcessor,
    clip: Clip,
    frames: np.ndarray,
    seconds: Sequence[float],
    others: Sequence[Clip] = (),
    read: Callable[[Clip], tuple[np.ndarray, Sequence[float]]] | None = None,
    min_face_share: float = 0.5,
) -> tuple[FaceFeatures, str, np.ndarray]:
    """Find a clip's reference, and the components of that person in each of its frames.

    The reference is the given photo; or the best frame of another clip of the same person, which the clip's key
    chooses, or of the next one if that is of no use; or the best frame of the clip itself. Of several faces in a
    photo or a frame the largest is meant.

    Args:
        processor: Reads faces.
        clip: The clip.
        frames: Its frames, (f, h, w, 3), uint8, RGB.
        seconds: The times of the frames.
        others: All clips of the person, if it has a name.
        read: Gives the frames of another clip, and their times.
        min_face_share: Share of the frames in which a face must be found.

    Returns:
        What is read of the reference; where it is: a path, with the seconds if it is a video's; and the component
        maps, (f, h, w), uint8: 0 none, 1 to 6 components, 255 where no face was found.

    Raises:
        Rejected: If there are too few frames with a face, or if the reference cannot be read or shows none.
    """
    faces = [processor.detect(frame) for frame in frames]
    found = sum(map(bool, faces))
    if not found or found < min_face_share * len(frames):
        raise Rejected(NO_FACE, f"one was found in {found} of {len(frames)} frames")
    if clip.reference is not None:
        features, place = _read_photo(processor, clip), str(clip.reference)
    else:
        features, place = _from_others(processor, clip, others, read) or _from_frames(
            processor, clip, frames, faces, seconds
        )
    return features, place, person_maps(processor, frames, faces, features)


def person_maps(
    processor: FaceProcessor, frames: np.ndarray, faces: Sequence[Sequence[DetectedFace]], reference: FaceFeatures
) -> np.ndarray:
    """Return the components of one person in each frame.

    Of several faces it is the one whose identity embedding is most like the reference's; without a recognizer the one
    nearest to where the person was last, or the largest.

    Args:
        processor: Reads faces.
        frames: (f, h, w, 3), uint8, RGB.
        faces: Those that were found in each frame.
        reference: What is read of the person's reference.

    Returns:
        (f, h, w), uint8: 0 none, 1 to 6 components, 255 in a frame without a face.
    """
    maps, last = np.full(frames.shape[:3], UNKNOWN, np.uint8), None
    for i, (frame, found) in enumerate(zip(frames, faces, strict=True)):
        if not found:
            continue

        def likeness(face: DetectedFace, frame: np.ndarray = frame, last: DetectedFace | None = last) -> float:
            if reference.id_embedding is not None:
                a, b = np.asarray(processor.recognizer.embed(frame, face.landmarks)), reference.id_embedding.numpy()
                return a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)
            if last is not None:
                return -np.abs(_middle(face) - _middle(last)).sum()
            return _area(face)

        last = max(found, key=likeness) if len(found) > 1 else found[0]
        aligned, matrix = processor.aligner.align(frame, last.landmarks)
        components = read_component_map(processor.parser.parse(aligned), aligned.shape[1::-1])
        maps[i] = warp_map(components, matrix, frame.shape[1::-1], inverse=True)
    return maps


def _read_photo(processor: FaceProcessor, clip: Clip) -> FaceFeatures:
    try:
        photo = Photo(clip.folder / clip.reference)
        _ = photo.pixels  # which are decoded when they are first wanted
    except (OSError, ValueError) as error:
        raise Rejected(BAD_REFERENCE, str(error)) from error
    return _read_face(processor, photo, "largest")


def _from_others(processor: FaceProcessor, clip: Clip, others: Sequence[Clip], read) -> tuple[FaceFeatures, str] | None:
    others = sorted((o for o in others if o.video != clip.video), key=lambda other: other.key)
    first = int(clip.key, 16) % max(1, len(others))
    for other in others[first:] + others[:first]:
        try:
            frames, seconds = read(other)
            frames, seconds = frames[::_STRIDE], seconds[::_STRIDE]
            return _from_frames(processor, other, frames, [processor.detect(frame) for frame in frames], seconds)
        except Rejected:
            continue
    return None


def _from_frames(
    processor: FaceProcessor,
    clip: Clip,
    frames: np.ndarray,
    faces: Sequence[Sequence[DetectedFace]],
    seconds: Sequence[float],
) -> tuple[FaceFeatures, str]:
    largest = {i: max(found, key=_area) for i, found in enumerate(faces) if found}
    if not largest:
        raise Rejected(NO_REFERENCE)
    best = sorted(largest, key=lambda i: reference_score(frames[i], largest[i]), reverse=True)[:_TRIED]
    for i in best:  # a good one may still be too small, or show none of the components
        try:
            return _read_face(processor, frames[i], "largest"), f"{clip.video}#t={seconds[i]:.3f}"
        except Rejected as error:
            reason = error
    raise reason


def _read_face(processor: FaceProcessor, image, face_index: str) -> FaceFeatures:
    try:
        return processor(image, face_index=face_index)
    except ValueError as error:
        raise Rejected(NO_REFERENCE, str(error)) from error


def _area(face: DetectedFace) -> float:
    return float(np.prod(face.box[2:] - face.box[:2]))


def _middle(face: DetectedFace) -> np.ndarray:
    return (face.box[:2] + face.box[2:]) / 2
