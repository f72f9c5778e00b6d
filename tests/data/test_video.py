"""A clip's frames: which times, which bucket, upright, whole; and a file that gives none is rejected."""

import wave
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

from support.tiny_clips import write_video

from lavieid_adapters.data.clips import Rejected
from lavieid_adapters.data.video import Bucket, choose_bucket, read_frames

SMALL = Bucket(9, 48, 64)


def numbered(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames whose brightness is 60 + twice their number, with a white corner at the top left
    and a black one at the top right."""
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = 60 + 2 * np.arange(count, dtype=np.uint8)[:, None, None, None]
    frames[:, : height // 3, : width // 4] = 255
    frames[:, : height // 3, -(width // 4) :] = 0
    return list(frames)


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers of `numbered` frames."""
    height, width = frames.shape[1:3]
    middle = frames[:, height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4]
    return ((middle.mean((1, 2, 3)) - 59.5) / 2).round().astype(int).tolist()


def corners(frame: np.ndarray) -> list[str]:
    """What is at the top left, top right, bottom left and bottom right."""
    values = [frame[y, x].mean() for y in (2, -3) for x in (2, -3)]
    return ["white" if v > 200 else "black" if v < 40 else "grey" for v in values]


# buckets


def test_a_bucket_is_read_from_text():
    assert Bucket.parse("49x480x720") == Bucket(49, 480, 720)
    assert str(Bucket.parse("9X64X96")) == "9x64x96"


@pytest.mark.parametrize("text", ["", "49", "49x480", "49x480x720x3", "49x480xwide", "4.5x480x720", "49 480 720"])
def test_what_is_no_bucket_is_shown_one(text):
    with pytest.raises(ValueError, match="as in 49x480x720"):
        Bucket.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("48x480x720", "has 48 frames, but video VAEs take 4k \\+ 1. Use 45 or 49"),
        ("0x480x720", "Use 1 or 5"),
        ("-3x480x720", "Use 1 or 5"),
        ("49x480x728", "480 × 728 pixels, but both sides must be positive multiples of 16"),
        ("49x0x720", "multiples of 16"),
        ("49x-480x720", "multiples of 16"),
    ],
)
def test_a_bucket_that_no_model_takes_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Bucket.parse(text)


@pytest.mark.parametrize("field", ["frames", "height", "width"])
def test_a_bucket_counts_in_whole_numbers(field):
    for value in (49.0, "49", True, None):
        with pytest.raises(ValueError, match=f"{field} of a bucket is {value!r}, but must be a whole number"):
            Bucket(**{"frames": 49, "height": 480, "width": 720, field: value})


def test_the_longest_bucket_that_a_clip_fills_then_the_nearest_shape_is_chosen():
    wide, tall, long = Bucket(9, 480, 720), Bucket(9, 720, 480), Bucket(49, 480, 720)
    buckets = [wide, tall, long]
    assert choose_bucket(buckets, 60, 8, 1080, 1920) == long
    assert choose_bucket(buckets, 60, 8, 1920, 1080) == long  # length before shape
    assert choose_bucket(buckets, 2, 8, 1080, 1920) == wide
    assert choose_bucket(buckets, 2, 8, 1920, 1080) == tall
    assert choose_bucket(buckets, 2, 8, 100, 101) == wide
    assert choose_bucket([Bucket(9, 240, 368), Bucket(9, 160, 240), wide], 2, 8, 480, 720) == wide
    assert choose_bucket(buckets, 0.5, 8, 480, 720) is None
    # 49 frames at 8 a second: the last is 6 s behind the first, or at most half an interval earlier.
    assert choose_bucket([long], 6, 8, 480, 720) == long
    assert choose_bucket([long], 6 - 1 / 30, 8, 480, 720) == long
    assert choose_bucket([long], 6 - 1 / 8, 8, 480, 720) is None


# frames


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")])
def test_frames_are_from_the_middle_at_the_wanted_rate(tmp_path, name, codec):
    path = write_video(tmp_path / name, numbered(91), rate=30, codec=codec)
    frames, bucket, start = read_frames(path, 5, [SMALL])
    assert (frames.shape, frames.dtype, bucket) == ((9, 48, 64, 3), np.uint8, SMALL)
    assert start == pytest.approx((3 - 8 / 5) / 2, abs=0.01)
    np.testing.assert_allclose(numbers(frames), 21 + 6 * np.arange(9), atol=1)  # some lie between two frames
    assert corners(frames[0]) == ["white", "black", "grey", "grey"]


def test_a_video_of_the_same_rate_gives_every_frame(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(9), rate=8)
    frames, _, start = read_frames(path, 8, [SMALL])
    assert numbers(frames) == list(range(9)) and start == 0
    with pytest.raises(Rejected, match=r"^too short: 0\.88 s, but 9 frames at 8 a second take 1\.00 s$"):
        read_frames(write_video(tmp_path / "b.mp4", numbered(8), rate=8), 8, [SMALL])


def test_of_a_variable_frame_rate_the_nearest_frames_in_time_are_taken(tmp_path):
    times = np.concatenate([np.arange(40) / 30, 40 / 30 + np.arange(20) / 5])  # 30 a second, then 5
    path = write_video(tmp_path / "a.mkv", numbered(60), rate=30, times=times)
    frames, _, start = read_frames(path, 4, [SMALL])
    wanted = start + np.arange(9) / 4
    nearest = np.abs(times[:, None] - wanted).argmin(0)
    assert numbers(frames) == nearest.tolist()
    assert numbers(frames) != np.linspace(nearest[0], nearest[-1], 9).round().tolist()  # as if the rate were constant


@pytest.mark.parametrize(
    ("rotation", "shown"),
    [
        (0, ["white", "black", "grey", "grey"]),
        (90, ["black", "grey", "white", "grey"]),  # counterclockwise
        (-90, ["grey", "white", "grey", "black"]),
        (180, ["grey", "grey", "black", "white"]),
    ],
)
def test_a_turned_video_is_upright(tmp_path, rotation, shown):
    path = write_video(tmp_path / "a.mp4", numbered(9), rate=8, rotation=rotation)
    frames, bucket, _ = read_frames(path, 8, [SMALL, Bucket(9, 64, 48)])
    assert (bucket.height > bucket.width) == (abs(rotation) == 90)
    assert corners(frames[0]) == shown


def test_a_mirrored_video_is_turned_round(tmp_path):
    one = 1 << 16
    path = write_video(tmp_path / "a.mp4", numbered(9), rate=8, matrix=[-one, 0, 0, 0, one, 0, 0, 0, 1 << 30])
    assert corners(read_frames(path, 8, [SMALL])[0][0]) == ["black", "white", "grey", "grey"]


def test_odd_sizes_are_cut_in_the_middle_to_the_buckets_shape(tmp_path):
    path = write_video(tmp_path / "a.webm", numbered(9, 45, 131), rate=8, codec="libvpx-vp9")
    frames, _, _ = read_frames(path, 8, [SMALL])
    assert corners(frames[0]) == ["grey"] * 4  # both corners are beyond the cut
    path = write_video(tmp_path / "b.webm", numbered(9, 51, 63), rate=8, codec="libvpx-vp9")
    assert corners(read_frames(path, 8, [SMALL])[0][0]) == ["white", "black", "grey", "grey"]


def test_a_circle_stays_a_circle_whatever_the_pixels_shape(tmp_path):
    image = np.zeros((96, 64, 3), np.uint8)  # shown twice as wide
    rows, columns = np.mgrid[:96, :64]
    image[(rows - 48) ** 2 + (2 * (columns - 32)) ** 2 < 40**2] = 255
    path = write_video(tmp_path / "a.mp4", [image] * 9, rate=8, pixel_aspect=Fraction(2, 1))
    frames, _, _ = read_frames(path, 8, [Bucket(9, 96, 128)])
    there = frames[4].mean(-1) > 127
    assert there.any(0).sum() == pytest.approx(there.any(1).sum(), abs=2)


def test_fine_detail_is_smoothed_rather_than_aliased(tmp_path):
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    path = write_video(tmp_path / "a.mp4", [stripes] * 9, rate=8)
    frames, _, _ = read_frames(path, 8, [Bucket(9, 64, 64)])
    assert stripes[:, ::4].std() > 100 or stripes[:, ::3].std() > 100  # what picking pixels would give
    assert frames.std() < 10


def test_the_middle_of_a_long_video_is_found_by_seeking(tmp_path):
    path = write_video(tmp_path / "a.mp4", [np.full((48, 64, 3), 20 + i // 4, np.uint8) for i in range(800)], rate=20)
    frames, _, start = read_frames(path, 4, [SMALL])
    assert start == pytest.approx((799 / 20 - 2) / 2)
    expected = 20 + np.round((start + np.arange(9) / 4) * 20) // 4
    np.testing.assert_allclose(frames[:, 24, 32, 1], expected, atol=2)


# what cannot be used


def rejection(path, **kwargs) -> Rejected:
    with pytest.raises(Rejected) as caught:
        read_frames(path, kwargs.get("fps", 8), [SMALL])
    return caught.value


def test_what_is_not_there_or_no_video_is_rejected(tmp_path):
    assert rejection(tmp_path / "none.mp4").reason == "no such file"
    assert rejection(tmp_path).reason == "no such file"
    for name, content in (("empty.mp4", b""), ("text.mp4", b"no video " * 99), ("zeros.mkv", bytes(9999))):
        (tmp_path / name).write_bytes(content)
        assert rejection(tmp_path / name).reason == "unreadable"
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    assert (rejection(tmp_path / "a.wav").reason, rejection(tmp_path / "a.wav").detail) == (
        "no video stream",
        "its streams are: audio",
    )
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    assert rejection(tmp_path / "a.png").reason == "too short"
    assert rejection(write_video(tmp_path / "one.mp4", numbered(1))).reason == "too short"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.75])
def test_a_file_that_was_cut_off_is_rejected(tmp_path, name, share):
    noise = np.random.default_rng(0).integers(0, 255, (90, 48, 64, 3), np.uint8)
    path = write_video(tmp_path / name, list(noise), rate=30)
    read_frames(path, 8, [SMALL])
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert rejection(path).reason == "unreadable"


def test_damage_inside_a_file_never_crashes(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(40), rate=20)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    outcomes = set()
    for _ in range(30):
        damaged = np.frombuffer(data, np.uint8).copy()
        start = rng.integers(len(data))
        damaged[start : start + 200] = rng.integers(0, 255, len(damaged[start : start + 200]))
        path.write_bytes(damaged.tobytes())
        try:
            read_frames(path, 8, [SMALL])
            outcomes.add("read")
        except Rejected as error:
            outcomes.add(error.reason)
    assert "unreadable" in outcomes and outcomes <= {"read", "unreadable", "too short", "no video stream"}
