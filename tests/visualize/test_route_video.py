"""Pictures and videos of what the router does."""

import av
import numpy as np
import pytest
from PIL import Image

from lavieid_adapters.faces.components import PALETTE
from lavieid_adapters.models.identity import FACIAL_COMPONENTS
from lavieid_adapters.visualize.route_video import of_frames, route_overlay, side_by_side, video_sheet, write_video

COLOURS = np.array(PALETTE[1:], np.float64)


def picture(height: int = 32, width: int = 48, seed: int = 0) -> np.ndarray:
    """Noise of all colours."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def grey_of(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).convert("L"))[..., None].repeat(3, axis=2)


def routed(components: np.ndarray, share: float = 1.0) -> np.ndarray:
    """Weights (m, H, W) that route each token to one component, -1 for none."""
    return np.stack([np.where(components == m, share, 0) for m in range(6)]).astype(np.float32)


def test_weights_of_zero_leave_grey():
    frame = picture()
    overlay = route_overlay(frame, np.zeros((6, 4, 6), np.float32))
    assert (overlay.shape, overlay.dtype) == (frame.shape, np.uint8)
    assert not np.array_equal(frame, grey_of(frame))
    assert np.array_equal(overlay, grey_of(frame))
    slope = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert np.array_equal(route_overlay(slope, np.zeros((6, 2, 2), np.float32)), slope)


@pytest.mark.parametrize("m", range(6), ids=FACIAL_COMPONENTS)
def test_a_token_that_is_routed_to_one_component_has_its_colour(m):
    frame = picture()
    overlay = route_overlay(frame, routed(np.full((4, 6), m)))
    wanted = 0.45 * grey_of(frame) + 0.55 * COLOURS[m]
    assert np.abs(overlay - wanted).max() <= 1
    # Of a grey frame, the colour is what is left of the overlay.
    flat = route_overlay(np.full((32, 48, 3), 100, np.uint8), routed(np.full((4, 6), m)))
    nearest = np.abs((flat[0, 0] - 45.0) / 0.55 - COLOURS).sum(axis=1).argmin()
    assert nearest == m


def test_each_token_colours_its_own_place():
    components = np.array([[0, 5, -1], [3, -1, 2]])
    overlay = route_overlay(np.full((64, 96, 3), 100, np.uint8), routed(components))
    for row, column in np.ndindex(components.shape):
        middle = overlay[16 + 32 * row, 16 + 32 * column].astype(float)
        m = components[row, column]
        wanted = 45 + 0.55 * COLOURS[m] if m >= 0 else [100] * 3
        assert np.abs(middle - wanted).max() <= 8  # the maps are enlarged smoothly


def test_shares_mix_and_the_rest_is_grey():
    frame = np.full((32, 48, 3), 100, np.uint8)
    weights = routed(np.full((4, 6), 1), 0.25) + routed(np.full((4, 6), 4), 0.5)
    wanted = 0.45 * 100 + 0.55 * (0.25 * COLOURS[1] + 0.5 * COLOURS[4] + 0.25 * 100)
    assert np.abs(route_overlay(frame, weights) - wanted).max() <= 1


def test_other_numbers_of_components_have_the_first_colours():
    overlay = route_overlay(np.full((32, 48, 3), 100, np.uint8), np.ones((1, 2, 3), np.float32))
    assert np.abs(overlay - (45 + 0.55 * COLOURS[0])).max() <= 1


@pytest.mark.parametrize(
    ("height", "width", "shape"),
    [(48, 32, (3, 48, 64, 3)), (32, 32, (3, 32, 64, 3)), (32, 48, (3, 64, 48, 3))],
    ids=["tall", "square", "wide"],
)
def test_videos_stand_beside_each_other_and_wide_ones_above(height, width, shape):
    first, second = (np.stack([picture(height, width, seed + i) for i in range(3)]) for seed in (0, 3))
    both = side_by_side(first, second)
    assert both.shape == shape
    assert np.array_equal(both[:, :height, :width], first)
    assert np.array_equal(both[:, -height:, -width:], second)


@pytest.mark.parametrize("caption", ["She walks.", "", "word " * 400, "She walks\nthrough a park — né 公園."])
def test_contact_sheet_is_a_row_with_a_caption_below(caption):
    reference, frames = picture(128, 128), [picture(32, 48, seed) for seed in range(3)]
    sheet = video_sheet(reference, frames, caption)
    width = 8 + 240 + 8 + 3 * (360 + 8)
    lines = 3 if len(caption) > 1000 else 1
    assert (sheet.size, sheet.mode) == ((width, 8 + 240 + 8 + 22 * lines), "RGB")
    pixels = np.asarray(sheet)
    left = 8
    for source in (reference, *frames):
        shown = Image.fromarray(source).resize((round(source.shape[1] * 240 / source.shape[0]), 240), 1)
        assert np.array_equal(pixels[8:248, left : left + shown.width], np.asarray(shown))
        left += shown.width + 8
        assert (pixels[:, left - 8 : left] == 255)[:248].all()
    dark = (pixels[248:] < 128).any(axis=2)
    assert dark.any() == bool(caption)
    assert not dark[:, -4:].any()  # nothing is cut off


def test_captions_differ_on_the_sheet():
    sheets = [np.asarray(video_sheet(picture(64, 64), [picture()], caption)) for caption in ("She", "He")]
    assert np.array_equal(sheets[0][:248], sheets[1][:248])
    assert not np.array_equal(sheets[0], sheets[1])


def read(path) -> tuple[list[np.ndarray], av.VideoStream]:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return frames, container.streams.video[0]


def drawn(count: int, height: int, width: int) -> list[np.ndarray]:
    """A slope of grey, under a bar that moves down."""
    frames = []
    for i in range(count):
        frame = np.tile(np.linspace(40, 200, width).round().astype(np.uint8)[:, None], (height, 1, 3))
        frame[4 * i : 4 * i + 4] = (220, 40, 40)
        frames.append(frame)
    return frames


@pytest.mark.parametrize("fps", [8, 16])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (63, 95), (64, 95), (33, 34)])
def test_a_video_is_read_back_as_it_was_written(tmp_path, height, width, fps):
    frames = drawn(9, height, width)
    write_video(iter(frames), tmp_path / "video.mp4", fps)
    found, stream = read(tmp_path / "video.mp4")
    assert len(found) == 9
    assert stream.codec_context.name == "h264"
    assert stream.average_rate == fps
    assert float(stream.duration * stream.time_base) == pytest.approx(9 / fps, abs=0.01)
    assert stream.codec_context.pix_fmt == "yuv420p"  # which every player and browser knows
    for wanted, got in zip(frames, found, strict=True):
        assert got.shape == (height // 2 * 2, width // 2 * 2, 3)
        difference = np.abs(got.astype(float) - wanted[: height // 2 * 2, : width // 2 * 2])
        assert difference.mean() < 6
    assert np.abs(found[0].astype(float) - found[-1]).mean() > 6


def test_a_video_of_eight_frames_a_second_is_the_default(tmp_path):
    write_video(np.stack(drawn(3, 32, 32)), tmp_path / "video.mp4")
    assert read(tmp_path / "video.mp4")[1].average_rate == 8


def test_one_frame_is_a_video(tmp_path):
    write_video(drawn(1, 32, 32), tmp_path / "video.mp4")
    assert len(read(tmp_path / "video.mp4")[0]) == 1


def test_pixels_in_any_order_of_memory_are_written(tmp_path):
    frames = [np.asfortranarray(frame) for frame in drawn(3, 32, 48)]
    write_video(frames, tmp_path / "video.mp4")
    for wanted, got in zip(frames, read(tmp_path / "video.mp4")[0], strict=True):
        assert np.abs(got.astype(float) - wanted).mean() < 6


@pytest.mark.parametrize("fps", [0, -8, 7.5, "8", True], ids=repr)
def test_a_rate_that_no_video_has_is_refused_before_a_file_is_written(tmp_path, fps):
    with pytest.raises(ValueError, match=f"fps is {fps!r}, but must be a whole number of at least 1"):
        write_video(drawn(2, 32, 32), tmp_path / "video.mp4", fps)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "frames", [[], iter(()), np.zeros((0, 32, 32, 3), np.uint8)], ids=["list", "iterator", "array"]
)
def test_a_video_of_no_frames_is_refused_before_a_file_is_written(tmp_path, frames):
    with pytest.raises(ValueError, match=r"no frame to write to '.*video\.mp4'"):
        write_video(frames, tmp_path / "video.mp4")
    assert not list(tmp_path.iterdir())


def test_components_without_a_colour_are_refused():
    assert route_overlay(picture(), np.zeros((6, 4, 6), np.float32)).shape == (32, 48, 3)
    with pytest.raises(ValueError, match=r"shape \(7, 4, 6\), but .* at most 6 components"):
        route_overlay(picture(), np.zeros((7, 4, 6), np.float32))
    with pytest.raises(ValueError, match=r"shape \(4, 6\), but must be \(components, rows, columns\)"):
        route_overlay(picture(), np.zeros((4, 6), np.float32))


def test_latent_frames_are_spread_over_the_frames_that_they_stand_for():
    weights = np.arange(3, dtype=np.float32)[None, :, None, None] * np.ones((6, 1, 2, 2), np.float32)
    spread = of_frames(weights, 9)
    assert spread.shape == (9, 6, 2, 2)
    assert spread[:, 0, 0, 0].tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert of_frames(weights[:, :1], 1).shape == (1, 6, 2, 2)
