"""Labels of video tokens, on drawn maps where the answer is known."""

import pytest
import torch
from support import tiny

from lavieid_adapters.data.labels import IGNORED, token_labels
from lavieid_adapters.faces.components import UNKNOWN
from lavieid_adapters.hosts.host_table import find_host
from lavieid_adapters.models.identity import FACIAL_COMPONENTS

NOBODY = len(FACIAL_COMPONENTS)  # the label of a token that shows no component
NO_POSITIONS = {
    "use_rotary_positional_embeddings": False, "sample_height": 4, "sample_width": 6, "sample_frames": 17,
}  # fmt: skip


def frames(*components: int, size: tuple[int, int] = (4, 6)) -> torch.Tensor:
    """Maps of frames that each show one component all over."""
    return torch.tensor(components, dtype=torch.uint8)[:, None, None].expand(-1, *size).contiguous()


@pytest.mark.parametrize("component", range(7))
def test_a_class_of_the_map_becomes_its_label(component):
    labels = token_labels(frames(component), (1, 2, 3))
    assert labels.dtype == torch.int64
    assert labels.tolist() == [component - 1 if component else NOBODY] * 6


@pytest.mark.parametrize(
    ("maps", "labels"),
    [
        ([3], [2]),
        ([3] + [5] * 4, [2, 4]),
        ([3] + [5] * 4 + [1] * 4 + [0] * 4 + [6] * 4, [2, 4, 0, NOBODY, 5]),
        # Off by one in either direction, each group would have two components in it.
        ([3] + [5, 5, 5, 5] + [1, 1, 1, 1] * 11, [2, 4] + [0] * 11),
    ],
    ids=["1 frame", "5 frames", "17 frames", "49 frames"],
)
def test_frame_0_stands_alone_and_latent_frame_k_is_frames_4k_minus_3_to_4k(maps, labels):
    assert token_labels(frames(*maps), (len(labels), 1, 1), threshold=1.0).tolist() == labels


@pytest.mark.parametrize("k", range(1, 5))
def test_each_frame_counts_for_its_latent_frame_alone(k):
    maps = [2] * 17
    maps[4 * k - 3 : 4 * k + 1] = [4, 4, 4, 2]
    labels = token_labels(frames(*maps), (5, 1, 1))
    assert labels.tolist() == [3 if i == k else 1 for i in range(5)]
    assert token_labels(frames(*maps), (5, 1, 1), threshold=0.8).tolist() == [
        IGNORED if i == k else 1 for i in range(5)
    ]


def test_rows_and_columns_are_those_of_the_grid_frame_by_frame():
    wanted = torch.arange(2 * 3 * 4).remainder(7).view(2, 3, 4)  # of 2 frames, 3 rows and 4 columns of tokens
    maps = wanted.repeat_interleave(16, 1).repeat_interleave(16, 2).to(torch.uint8)
    labels = token_labels(torch.cat([maps[:1], maps[1:].expand(4, -1, -1)]), (2, 3, 4))
    assert labels.tolist() == [int(c) - 1 if c else NOBODY for c in wanted.flatten()]


def test_the_component_of_the_greater_area_wins():
    maps = frames(0, size=(4, 12))
    maps[0, :, 4:8] = 5
    maps[0, :3, 4:8] = 6  # 12 of the second token's 16 pixels
    maps[0, :3, 8:12] = 6
    maps[0, 0, 8:10] = 5  # 10, 2 and 4 of the third's
    assert token_labels(maps, (1, 1, 3)).tolist() == [NOBODY, 5, 5]


def test_a_token_whose_component_is_below_the_threshold_has_no_label():
    maps = frames(0, size=(10, 10))
    maps[0, :6] = 1
    for threshold, label in ((0.5, 0), (0.6, 0), (0.61, IGNORED), (1.0, IGNORED)):
        assert token_labels(maps, (1, 1, 1), threshold=threshold).tolist() == [label], threshold
    maps[0, :4], maps[0, 4:8] = 2, 3  # four, four and two of ten rows
    assert token_labels(maps, (1, 1, 1)).tolist() == [IGNORED]
    assert token_labels(maps, (1, 1, 1), threshold=0.4).tolist() == [1]


def test_small_components_are_weighed_over_all_frames_of_the_token():
    maps = frames(0, *[5] * 4, size=(4, 4))
    maps[1:3] = 1  # eyebrows in two whole frames, and in a quarter of the other two
    maps[3:, :1] = 1
    assert token_labels(maps, (2, 1, 1)).tolist() == [NOBODY, 0]


def test_unknown_pixels_count_for_nobody():
    assert UNKNOWN == 255
    maps = frames(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, 2)
    assert token_labels(maps, (2, 2, 3)).tolist() == [IGNORED] * 12
    maps[3:] = 2  # two frames of four
    assert token_labels(maps, (2, 2, 3)).tolist() == [IGNORED] * 6 + [1] * 6
    maps[3:] = 0
    assert token_labels(maps, (2, 2, 3)).tolist() == [IGNORED] * 6 + [NOBODY] * 6


@pytest.mark.parametrize("threshold", [0.0, 0.01])
def test_a_token_of_which_nothing_is_known_has_no_label_at_any_threshold(threshold):
    maps = frames(*[UNKNOWN] * 5)
    maps[0, 0, 0] = 4
    assert token_labels(maps, (2, 2, 1), threshold=threshold).tolist() == [3, IGNORED, IGNORED, IGNORED]


def test_cells_that_do_not_divide_evenly():
    maps = torch.zeros(1, 5, 7, dtype=torch.uint8)
    maps[0, 2:, 4:] = 5
    # A pixel belongs to the cell in which its middle lies: rows 0 to 1 and 2 to 4, columns 0 to 2 and 3 to 6, so that
    # the last cell shows the component in 3 × 3 of its 3 × 4 pixels, and its neighbours nowhere.
    assert token_labels(maps, (1, 2, 2), threshold=0.75).tolist() == [NOBODY, NOBODY, NOBODY, 4]
    assert token_labels(maps, (1, 2, 2), threshold=0.76).tolist() == [NOBODY, NOBODY, NOBODY, IGNORED]


def test_a_map_that_is_coarser_than_the_grid_is_refused():
    maps = torch.tensor([[[1, 2], [3, 4]]], dtype=torch.uint8)
    assert token_labels(maps, (1, 2, 2)).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"maps of \(2, 2\) pixels are coarser than a token grid of \(4, 4\)"):
        token_labels(maps, (1, 4, 4))


def test_two_latent_frames_a_token_repeat_the_first_in_front():
    # 9 frames make 3 latent frames: the first, twice, is a token, and the others are another.
    maps = [3, 5, 5, 5, 5, 1, 1, 1, 1]
    assert token_labels(frames(*maps), (2, 1, 1), patch_frames=2, threshold=0.6).tolist() == [2, IGNORED]
    assert token_labels(frames(*maps), (2, 1, 1), patch_frames=2).tolist() == [2, 0]  # a tie: the first
    maps[5] = 5
    assert token_labels(frames(*maps), (2, 1, 1), patch_frames=2, threshold=0.6).tolist() == [2, 4]
    # 13 frames make 4, which divide: nothing is repeated.
    maps = [3] + [5] * 4 + [1] * 8
    assert token_labels(frames(*maps), (2, 1, 1), patch_frames=2, threshold=0.6).tolist() == [IGNORED, 0]
    # 81 frames at 16 a second, as CogVideoX 1.5 takes them, make 21 latent frames and 11 of tokens.
    assert token_labels(frames(*[3] + [5] * 80), (11, 1, 1), patch_frames=2).tolist() == [2] + [4] * 10


def test_another_compression_groups_other_frames():
    maps = [3] + [5] * 8 + [1] * 8
    assert token_labels(frames(*maps), (3, 1, 1), temporal_compression=8).tolist() == [2, 4, 0]
    assert token_labels(frames(3, 5, 1), (3, 1, 1), temporal_compression=1).tolist() == [2, 4, 0]


@pytest.mark.parametrize(
    ("count", "grid", "sizes", "message"),
    [
        (48, (12, 1, 1), {}, "48 frames at 4 a latent frame and 1 latent frames a token do not make the 12 frames"),
        (49, (12, 1, 1), {}, "49 frames at 4.*12 frames of the token grid"),
        (49, (13, 1, 1), {"patch_frames": 2}, "49 frames at 4 a latent frame and 2 latent frames.*13 frames"),
        (49, (13, 1, 1), {"temporal_compression": 8}, "49 frames at 8 a latent frame.*13 frames"),
        (0, (1, 1, 1), {}, "0 frames at 4.*1 frames"),
    ],
)
def test_frames_that_do_not_fit_the_grid_are_refused(count, grid, sizes, message):
    with pytest.raises(ValueError, match=message):
        token_labels(frames(*[1] * count) if count else torch.zeros(0, 4, 6, dtype=torch.uint8), grid, **sizes)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (torch.zeros(5, 4, 6), r"torch.float32 of shape \(5, 4, 6\), but must be uint8 \(frames, h, w\)"),
        (torch.zeros(5, 4, 6, dtype=torch.int64), r"torch.int64 of shape \(5, 4, 6\)"),
        (torch.zeros(4, 6, dtype=torch.uint8), r"torch.uint8 of shape \(4, 6\)"),
    ],
)
def test_other_maps_are_refused(maps, message):
    with pytest.raises(ValueError, match=message):
        token_labels(maps, (2, 2, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.1}, r"threshold is 1\.1, but must be a share from 0 to 1"),
        ({"threshold": float("nan")}, "threshold is nan, but"),
        ({"temporal_compression": 0}, "temporal_compression is 0 and patch_frames is 1, but both must be at least 1"),
        ({"patch_frames": 0}, "temporal_compression is 4 and patch_frames is 0, but both"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        token_labels(torch.zeros(5, 4, 6, dtype=torch.uint8), (2, 2, 3), **settings)


@pytest.mark.parametrize(("patch_frames", "frame_count"), [(None, 17), (2, 17), (2, 13)])
def test_labels_lie_where_the_real_hosts_tokens_do(patch_frames, frame_count):
    # A face in the lower left corner, in the last latent frame only.
    height, width = 32, 48
    maps = torch.zeros(frame_count, height, width, dtype=torch.uint8)
    maps[-4:, 16:, :32] = 5
    sizes = {"use_rotary_positional_embeddings": True} if patch_frames else NO_POSITIONS
    model = tiny.transformer(patch_size_t=patch_frames, patch_bias=patch_frames is None, **sizes)
    latent_frames = (frame_count - 1) // 4 + 1
    grid = find_host(model).grid(model, {"hidden_states": torch.empty(1, latent_frames, 4, height // 8, width // 8)})
    assert grid == (-(-latent_frames // (patch_frames or 1)), 2, 3)
    labels = token_labels(maps, grid, patch_frames=patch_frames or 1, threshold=0.5)
    # What the host makes of latents that are 1 where the face is: its patches say which of its tokens see it.
    face = torch.zeros(1, latent_frames, 4, height // 8, width // 8)
    face[:, -1, :, 2:, :4] = 1
    face = torch.cat([face[:, :1]] * (-latent_frames % (patch_frames or 1)) + [face], dim=1)
    empty, text = torch.zeros_like(face), torch.zeros(1, 16, 32)
    with torch.no_grad():
        seen, unseen = (model.patch_embed(text, latents)[0, 16:] for latents in (face, empty))
    sees = (seen != unseen).any(dim=1)
    assert len(sees) == len(labels)
    assert sees.nonzero().flatten().tolist() == [len(labels) - 3, len(labels) - 2]
    if patch_frames is None:
        assert labels.tolist() == [4 if face else NOBODY for face in sees]
    else:  # half of the token's two latent frames: as much nobody's as the face's
        assert labels.tolist() == [NOBODY] * len(labels)
        assert token_labels(maps, grid, patch_frames=2, threshold=0.51)[sees].tolist() == [IGNORED] * 2
