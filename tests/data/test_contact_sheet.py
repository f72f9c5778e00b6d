"""A sheet shows each sample's person, frames with their components, and caption."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("av")

from safetensors.torch import save_file
from support.tiny_clips import RED, draw, drawn_faces, walk

from lavieid_adapters.data.contact_sheet import shard_sheet
from lavieid_adapters.data.person import person_maps
from lavieid_adapters.data.sample_maker import _members, previewed
from lavieid_adapters.data.shard_writer import ShardWriter, write_index
from lavieid_adapters.data.shards import SIZE, Shards
from lavieid_adapters.faces.components import PALETTE

MARGIN, TOP, WIDTH, GAP = 24, 64, 240, 8


def members(frames: list[np.ndarray], caption: str, hidden: dict) -> dict[str, bytes]:
    processor, frames = drawn_faces(), np.stack(frames)
    faces = [processor.detect(frame) for frame in frames]
    reference = processor(next(frame for frame, found in zip(frames, faces, strict=True) if found))
    about = {"frames": len(frames), "height": frames.shape[1], "width": frames.shape[2], "caption": caption}
    about |= {"fps": 8.0, "start": 0.5, "hidden": hidden, "reference": "a.mp4#t=0.000"}
    tensors = {"latents": torch.zeros(1)}
    return _members(about, tensors, frames, person_maps(processor, frames, faces, reference), reference)


@pytest.fixture
def shards(tmp_path):
    def make(*samples) -> Shards:
        header = {"format": "lavieid-shards", "version": 1, "base": "me/base", "fps": 8.0}
        (tmp_path / "shards.json").write_text(json.dumps(header))
        save_file({"prompt_embeds": torch.zeros(1, 1)}, tmp_path / "null_prompt.safetensors")
        with ShardWriter(tmp_path) as writer:
            for i, sample in enumerate(samples):
                frames = np.stack(sample[0])
                writer.write(f"{i:016x}", members(*sample), dict(zip(SIZE, frames.shape[:3], strict=True)))
        write_index(tmp_path)
        return Shards(tmp_path)

    return make


def test_a_preview_shows_six_frames_from_the_first_to_the_last():
    assert previewed(49) == [0, 10, 19, 29, 38, 48]
    assert previewed(5) == [0, 1, 2, 2, 3, 4] and previewed(1) == [0] * 6


def test_the_frames_are_tinted_where_the_components_are(shards):
    sheet = np.asarray(shard_sheet(shards((walk(), "She walks.", {})), [0])).astype(int)
    height = WIDTH * 64 // 96
    assert sheet.shape[1] == 2 * MARGIN + height + 6 * (WIDTH + GAP)
    for column, number in enumerate(previewed(9)):
        left = MARGIN + height + GAP + column * (WIDTH + GAP)
        x, y = left + (36 + 3 * number) * WIDTH // 96, TOP + 32 * WIDTH // 96
        hair, nose, beside = sheet[y - 42, x], sheet[y + 4, x], sheet[y + 70, x]
        np.testing.assert_allclose(hair, (np.array(RED) + PALETTE[6]) / 2, atol=14)
        np.testing.assert_allclose(nose, (np.array(RED) + PALETTE[4]) / 2, atol=14)
        np.testing.assert_allclose(beside, 128, atol=8)
    middle = TOP + height // 2, MARGIN + height // 2
    np.testing.assert_allclose(sheet[middle[0] + 6, middle[1]], (np.array(RED) + PALETTE[4]) / 2, atol=6)
    for i, colour in enumerate(PALETTE[1:]):
        assert (sheet[:TOP] == colour).all(-1).sum() > 300, i  # the legend


def test_a_frame_without_a_face_is_not_tinted_and_says_so(shards):
    frames = walk()
    frames[0] = draw((RED, 36, 32, 2.5))  # too small to be found
    with_face, without = (
        np.asarray(shard_sheet(shards((pixels, "x", {})), [0]))[TOP : TOP + 160, MARGIN + 168 :][:, :WIDTH]
        for pixels in (walk(), frames)
    )
    assert (np.abs(with_face.astype(int) - 128).max(-1) > 30).sum() > 5000
    assert (np.abs(without[30:].astype(int) - 128).max(-1) > 30).sum() < 500
    assert (without[:24, 60:200] == 255).all(-1).sum() > (with_face[:24, 60:200] == 255).all(-1).sum() + 50


def test_rows_are_as_high_as_their_text_and_of_several_shapes(shards):
    tall = [draw((RED, 32, 40 + i, 20), size=(96, 64)) for i in range(5)]
    long = "She walks through a park in autumn and reads a book. " * 60
    made = shards((walk(), "She walks.", {}), (tall, "She nods.", {"hair": "not in the photo"}), (walk(), long, {}))
    sheets = [shard_sheet(made, [i]) for i in range(3)]
    assert sheets[1].height == sheets[0].height + WIDTH * 96 // 64 - WIDTH * 64 // 96
    assert 30 < sheets[2].height - sheets[0].height < 60  # three lines, however long it is
    together = shard_sheet(made, [0, 1, 2])
    assert together.width == max(sheet.width for sheet in sheets)
    assert together.height == sum(sheet.height - TOP for sheet in sheets) + TOP
    right = np.asarray(together)[TOP:, -MARGIN:]
    assert (right == 255).all()  # nothing is cut off
    twice = np.asarray(shard_sheet(made, [0, 0]))
    height = sheets[0].height - TOP
    np.testing.assert_array_equal(twice[TOP : TOP + height], twice[TOP + height :])


def test_what_is_known_of_a_sample_is_written_below_it(shards):
    made = shards((walk(), "She walks.", {}))
    before = np.asarray(shard_sheet(made, [0]))
    shown = made.members
    for change in ({"caption": "He cooks."}, {"hidden": {"eyes": "too small"}}, {"start": 3.0}, {"reference": "b.png"}):
        about = {**json.loads(shown(0)["json"]), **change}
        made.members = lambda i, about=about: {**shown(i), "json": json.dumps(about).encode()}
        rows = np.flatnonzero((np.asarray(shard_sheet(made, [0])) != before).any((1, 2)))
        assert rows.size and rows.min() >= TOP + 160, change
    made.members = shown
    assert Image.open(io.BytesIO(made.members(0)["preview.jpg"])).size == (6 * WIDTH, 160)
