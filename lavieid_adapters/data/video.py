"""The frames of a video at the rate, the length and the size for training."""

# f frames · h w pixels

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from .clips import Rejected

# Why a clip cannot be used, as far as its file tells.
MISSING, UNREADABLE, NO_VIDEO, TOO_SHORT = "no such file", "unreadable", "no video stream", "too short"
_LOST = 0.5  # seconds that may be missing at a video's end
_SKIPPED = 10  # seconds of a video that are skipped by seeking rather than by decoding


@dataclass(frozen=True)
class Bucket:
    """A length and a size that clips are cut and resized to.

    Args:
        frames: 4k + 1, as video VAEs take them.
        height, width: Pixels, multiples of 16.

    Raises:
        ValueError: If `frames` is not 4k + 1, or a side is not a positive multiple of 16.
    """

    frames: int
    height: int
    width: int

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{field.name} of a bucket is {value!r}, but must be a whole number.")
        if self.frames < 1 or self.frames % 4 != 1:
            below = max(1, (self.frames - 1) // 4 * 4 + 1)
            raise ValueError(
                f"A bucket has {self.frames} frames, but video VAEs take 4k + 1. Use {below} or {below + 4}."
            )
        if min(self.height, self.width) < 1 or self.height % 16 or self.width % 16:
            raise ValueError(
                f"A bucket has {self.height} × {self.width} pixels, but both sides must be positive multiples of 16."
            )

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> "Bucket":
        """Return the bucket of text such as "49x480x720": frames, height, width.

        Raises:
            ValueError: If it is not three numbers, or numbers that make no bucket.
        """
        try:
            frames, height, width = map(int, text.lower().split("x"))
        except ValueError as error:
            raise ValueError(f"'{text}' is no bucket. Write frames, height and width, as in 49x480x720.") from error
        return cls(frames, height, width)


def choose_bucket(
    buckets: Sequence[Bucket], duration_s: float, fps: float, height: float, width: float
) -> Bucket | None:
    """Return the longest bucket that a clip fills; of several of that length the one of the nearest aspect ratio.

    Args:
        buckets: To choose from; of the same length and ratio the largest.
        duration_s: Seconds from the first frame to the last.
        fps: Frames a second to sample; each must lie within half of this interval of a frame of the clip.
        height, width: Of the upright clip.

    Returns:
        The bucket, or None if the clip is too short for all.
    """
    fitting = [b for b in buckets if b.frames - 1.5 <= duration_s * fps]
    if not fitting:
        return None

    def fitness(b: Bucket) -> tuple:
        return b.frames, -abs(math.log(b.width / b.height * height / width)), b.height * b.width

    return max(fitting, key=fitness)


def read_frames(path: str | os.PathLike, fps: float, buckets: Sequence[Bucket]) -> tuple[np.ndarray, Bucket, float]:
    """Read the middle of a video, upright, at `fps` frames per second, resized to cover a bucket and cut to it.

    Of each time the frame with the nearest timestamp is taken. One whole frame is in memory at a time.

    Returns:
        Frames (f, h, w, 3), uint8, RGB; the bucket; and the seconds between the video's first frame and theirs.

    Raises:
        Rejected: If it is not there, cannot be decoded, holds no video, or is too short for all buckets.
    """
    import av  # here, so that the package's names load without it

    if not Path(path).is_file():
        raise Rejected(MISSING, f"'{path}'")
    try:
        first, last, height, width = _survey(path)
        bucket = choose_bucket(buckets, last - first, fps, height, width)
        if bucket is None:
            least = min(b.frames for b in buckets)
            needed = f"{least} frames at {fps:g} a second take {(least - 1) / fps:.2f} s"
            raise Rejected(TOO_SHORT, f"{last - first:.2f} s, but {needed}")
        start = max(0.0, (last - first - (bucket.frames - 1) / fps) / 2)
        times = first + start + np.arange(bucket.frames) / fps
        frames = _sample(path, times, last, bucket, seek=start > _SKIPPED)
        if frames is None:  # some files' indices lead astray
            frames = _sample(path, times, last, bucket, seek=False)
        return frames, bucket, start
    except av.FFmpegError as error:
        raise Rejected(UNREADABLE, error.strerror or str(error)) from error


def _survey(path: str | os.PathLike) -> tuple[float, float, float, float]:
    """Return the seconds of the first and the last frame, and height and width of an upright one in square pixels."""
    import av

    times, end, size = [], 0.0, None
    with av.open(os.fspath(path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        if stream is None:
            raise Rejected(NO_VIDEO, f"its streams are: {', '.join(s.type for s in container.streams) or 'none'}")
        for packet in container.demux():  # sound, too: it tells where a file that was cut off ends
            time = packet.pts if packet.pts is not None else packet.dts
            if time is not None:
                end = max(end, float((time + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != stream.index:
                continue
            if packet.is_corrupt:
                raise Rejected(UNREADABLE, f"it breaks off or is damaged after {max(times, default=0):.2f} s")
            if time is not None and not packet.is_discard:
                times.append(float(time * packet.time_base))
            if size is None:
                for frame in packet.decode()[:1]:
                    pixels, aspect = _upright(frame, stream)
                    size = pixels.shape[0], pixels.shape[1] * aspect
        stated = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
    if not times or size is None:
        raise Rejected(UNREADABLE, "it holds no frames")
    if end < stated - _LOST:
        raise Rejected(UNREADABLE, f"it breaks off after {end:.2f} s of {stated:.2f} s")
    return min(times), max(times), *size


def _sample(path: str | os.PathLike, times: np.ndarray, last: float, bucket: Bucket, seek: bool) -> np.ndarray | None:
    """Return the frames nearest to `times`, or None if seeking led behind the first of them."""
    import av

    frames, count, before = np.empty((bucket.frames, bucket.height, bucket.width, 3), np.uint8), 0, None
    with av.open(os.fspath(path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        stream.thread_type = "AUTO"
        if seek:
            container.seek(int(times[0] / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            if seek and before is None and frame.time > times[0]:
                return None
            while count < len(times) and frame.time >= times[count]:
                nearest = frame
                if before is not None and times[count] - before.time < frame.time - times[count]:
                    nearest = before
                frames[count] = _fit(nearest, bucket, stream)
                count += 1
            before = frame
            if count == len(times):
                break
    if count < len(times) and (before is None or before.time < last - 1e-6):
        raise Rejected(UNREADABLE, f"its frames cannot be decoded after {before.time if before else 0:.2f} s")
    for i in range(count, len(times)):  # less than half an interval behind the last frame
        frames[i] = _fit(before, bucket, stream)
    return frames


def _upright(frame, stream) -> tuple[np.ndarray, float]:
    """Return the pixels of a video frame as shown, (h, w, 3), uint8, RGB, and the width of one over its height."""
    pixels, aspect = frame.to_ndarray(format="rgb24"), float(stream.sample_aspect_ratio or 1)
    matrix = next((bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is not None:
        # x' = a x + c y and y' = b x + d y, of which quarter turns and mirrors are made.
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
        if abs(b) > abs(a):
            pixels, aspect, a, d = pixels.swapaxes(0, 1), 1 / aspect, c, b
        pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(pixels), aspect


def _fit(frame, bucket: Bucket, stream) -> np.ndarray:
    """Return a frame in the size of a bucket, (h, w, 3): the largest part in its middle of the bucket's ratio."""
    if frame.is_corrupt:
        raise Rejected(UNREADABLE, f"the frame at {frame.time:.2f} s is damaged")
    pixels, aspect = _upright(frame, stream)
    height, width = pixels.shape[:2]
    ratio = width * aspect / height * bucket.height / bucket.width  # over 1 if the frame is the wider one
    x, y = width * (1 - 1 / max(ratio, 1)) / 2, height * (1 - min(ratio, 1)) / 2
    size, box = (bucket.width, bucket.height), (x, y, width - x, height - y)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, box))
