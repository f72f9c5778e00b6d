"""Training samples: what is in them, what is random about them, and in which order they come."""

import io
from dataclasses import fields, replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load
from support import tiny
from support.tiny_shards import ID_DIM, component_grid, null_prompt, sample_members, write_shards

from lavieid_adapters import VisionModel
from lavieid_adapters.data.dataset import Batch, MicroBatches, SampleFormat, TrainingSamples, batches, collate
from lavieid_adapters.data.labels import IGNORED
from lavieid_adapters.data.shards import Shards
from lavieid_adapters.faces.parts import component_features, join_embeds
from lavieid_adapters.hosts.host_table import find_host

SMALL, LONG, WIDE = (5, 32, 48), (9, 32, 48), (5, 32, 64)
HAT = {"hair": "not in the photo", "eyebrows": "too small"}


def sample_format(**changes) -> SampleFormat:
    grids = {size: component_grid(0, size).shape for size in (SMALL, LONG, WIDE)}
    given = SampleFormat(
        grids, temporal_compression=4, patch_frames=1, threshold=0.5, image_size=28, grayscale=False, null_prompt=0.0,
        seed=0,
    )  # fmt: skip
    return replace(given, **changes)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Shards:
    """Six samples of three sizes, the second of somebody with a hat."""
    folder = tmp_path_factory.mktemp("shards")
    return Shards(write_shards(folder, [SMALL, SMALL, LONG, SMALL, WIDE, SMALL], hidden={1: HAT}))


def assert_same(first: Batch, second: Batch) -> None:
    for f in fields(Batch):
        assert torch.equal(getattr(first, f.name), getattr(second, f.name)), f.name


def numbers(order, count: int) -> list:
    return list(islice(iter(order), count))


def test_every_sample_comes_once_an_epoch_in_an_order_of_its_own():
    order = numbers(MicroBatches(["a"] * 12, 1, seed=0), 36)
    epochs = [[batch[0][0] for batch in order[i : i + 12]] for i in (0, 12, 24)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert epochs[0] != list(range(12))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_follows_from_the_seed():
    orders = [numbers(MicroBatches(["a"] * 12, 1, seed), 24) for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_places_count_the_samples_of_the_run(batch_size):
    order = numbers(MicroBatches(["a"] * 6, batch_size, seed=0), 10)
    assert [place for batch in order for _, place in batch] == list(range(10 * batch_size))


@pytest.mark.parametrize(("start", "stride"), [(0, 1), (5, 1), (0, 2), (1, 2), (3, 4), (17, 3), (40, 8)])
def test_the_sequence_is_the_same_from_wherever_it_starts_and_in_whatever_steps(start, stride):
    sizes = ["a"] * 5 + ["b"] * 4 + ["c"]
    whole = numbers(MicroBatches(sizes, 2, seed=3), 100)
    part = numbers(MicroBatches(sizes, 2, seed=3, start=start, stride=stride), 7)
    assert part == whole[start : start + 7 * stride : stride]


def test_two_processes_see_together_what_one_that_accumulates_sees():
    sizes, steps = ["a"] * 5 + ["b"] * 4, 20
    alone = numbers(MicroBatches(sizes, 1, seed=0), 2 * steps)
    processes = [numbers(MicroBatches(sizes, 1, seed=0, start=rank, stride=2), steps) for rank in (0, 1)]
    assert processes[0] != processes[1]
    for step in range(steps):
        assert alone[2 * step : 2 * step + 2] == [processes[0][step], processes[1][step]]


def test_an_iterator_begins_anew_each_time():
    order = MicroBatches(["a"] * 5, 2, seed=0, start=3)
    assert numbers(order, 4) == numbers(order, 4)


def test_a_batch_holds_samples_of_one_size_and_what_is_left_waits_for_the_next_shuffle():
    sizes = ["a"] * 5 + ["b"] * 3 + ["c"]
    order = MicroBatches(sizes, 2, seed=0)
    assert order.per_epoch == 3
    sequence, left = numbers(order, 3 * 40), set()
    for epoch in range(40):
        drawn = sequence[3 * epoch : 3 * epoch + 3]
        indices = [index for batch in drawn for index, _ in batch]
        assert len(set(indices)) == 6
        assert sorted(sizes[batch[0][0]] for batch in drawn) == ["a", "a", "b"]
        assert all(sizes[first[0]] == sizes[second[0]] for first, second in drawn)
        left |= set(range(8)) - set(indices)
    assert left == set(range(8))  # it is not always the same ones that wait
    # Sizes do not come one after the other.
    assert len({tuple(sizes[b[0][0]] for b in sequence[3 * i : 3 * i + 3]) for i in range(40)}) > 1


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(5, 32, 48)] * 3 + [(9, 32, 48)], r"batch_size is 4, but the shards hold 3 of \(5, 32, 48\), 1 of \(9, 32"),
        ([], "batch_size is 4, but the shards hold none: lower it, or prepare more clips"),
    ],
)
def test_too_few_samples_for_a_batch_are_refused(sizes, message):
    assert MicroBatches([(5, 32, 48)] * 4, 4, seed=0).per_epoch == 1
    with pytest.raises(ValueError, match=message):
        MicroBatches(sizes, 4, seed=0)


def test_a_sample_holds_what_the_shards_hold(shards):
    samples = TrainingSamples(shards, sample_format())
    assert len(samples) == 6
    for i, size in ((0, SMALL), (2, LONG), (4, WIDE)):
        stored, batch = load(sample_members(i, size)["safetensors"]), samples[i, 7]
        for name in ("latents", "prompt_embeds", "id_embedding"):
            assert torch.equal(getattr(batch, name)[0], stored[name])
        assert batch.noise.shape == batch.latents.shape
        assert batch.noise.dtype == torch.float32
    assert not torch.equal(samples[0, 0].latents, samples[1, 0].latents)


@pytest.mark.parametrize(("i", "size"), [(0, SMALL), (2, LONG), (4, WIDE)])
def test_labels_are_the_components_of_the_tokens(shards, i, size):
    grid = torch.from_numpy(component_grid(i, size)).long().flatten()
    assert len(grid.unique()) > 3
    labels = TrainingSamples(shards, sample_format())[i, 0].labels
    assert torch.equal(labels, torch.where(grid == 0, 6, grid - 1)[None])
    assert len(grid) == (size[0] + 3) // 4 * (size[1] // 16) * (size[2] // 16)


def test_labels_follow_the_threshold_and_the_grid(shards):
    coarse = {SMALL: (2, 1, 1)}  # each token sees six components
    labels = TrainingSamples(shards, sample_format(grids=coarse, threshold=0.9))[0, 0].labels
    assert labels.tolist() == [[IGNORED] * 2]
    labels = TrainingSamples(shards, sample_format(grids=coarse, threshold=0.01))[0, 0].labels
    assert IGNORED not in labels


def test_images_and_mask_show_what_the_reference_shows(shards):
    samples = TrainingSamples(shards, sample_format())
    whole, hat = samples[0, 0], samples[1, 0]
    for batch in (whole, hat):
        assert (tuple(batch.images.shape), batch.images.dtype) == ((1, 6, 28, 28, 3), torch.uint8)
    assert whole.mask.tolist() == [[True] * 6]
    assert hat.mask.tolist() == [[False, True, True, True, True, False]]
    white = (hat.images == 255).flatten(2).all(dim=2)
    assert torch.equal(white, ~hat.mask)
    assert not (whole.images == 255).flatten(2).all(dim=2).any()
    # A component is a row of one colour, which comes to lie across the middle of its image.
    members = sample_members(0)
    aligned, component_map = (
        np.array(Image.open(io.BytesIO(members[name]))) for name in ("aligned.png", "aligned_map.png")
    )
    for m in range(6):
        colour = aligned[component_map == m + 1][0]
        assert np.abs(whole.images[0, m, 14, 14].numpy().astype(int) - colour).max() < 10
        assert (whole.images[0, m, 0] == 255).all()
    assert len(whole.images[0, :, 14, 14].unique(dim=0)) == 6


def test_images_are_of_the_vision_models_size_and_colours(shards):
    grey = TrainingSamples(shards, sample_format(image_size=14, grayscale=True))[0, 0].images
    assert grey.shape == (1, 6, 14, 14, 3)
    assert torch.equal(grey[..., 0], grey[..., 1])
    coloured = TrainingSamples(shards, sample_format(image_size=14))[0, 0].images
    assert not torch.equal(coloured[..., 0], coloured[..., 1])


def test_samples_fit_the_small_host_and_the_small_encoder(shards, face_models):
    model, encoder = tiny.transformer(), tiny.encoder()
    vision = VisionModel(face_models.clip, encoder.config.num_scales)
    samples = TrainingSamples(shards, sample_format(image_size=vision.image_size))
    batch = collate([samples[0, 0], samples[1, 1]])
    assert batch.id_embedding.shape == (2, ID_DIM)
    vit_embeds, maps = component_features(vision, batch.images.numpy(), batch.mask.numpy())
    with torch.no_grad():
        tokens = encoder(join_embeds(batch.id_embedding, vit_embeds), maps)
        z = model.patch_embed(batch.prompt_embeds, batch.latents)[:, batch.prompt_embeds.shape[1] :]
    assert tokens.shape == (2, 6, tiny.LENGTH, tiny.TOKEN_DIM)
    assert z.shape == (*batch.labels.shape, tiny.DIM)
    assert find_host(model).grid(model, {"hidden_states": batch.latents}) == samples.format.grids[SMALL]
    assert tiny.router().route_logits(z, tokens, batch.mask).shape == (2, 6, batch.labels.shape[1])


def test_what_is_random_follows_from_the_place(shards):
    samples = TrainingSamples(shards, sample_format())
    first, again, elsewhere = samples[0, 3], samples[0, 3], samples[0, 4]
    assert_same(first, again)
    assert not torch.equal(first.noise, elsewhere.noise)
    assert first.draws != elsewhere.draws
    assert torch.equal(first.latents, elsewhere.latents)
    # The place, and not the sample, is what decides.
    assert torch.equal(first.noise, samples[1, 3].noise)
    other = TrainingSamples(shards, sample_format(seed=1))[0, 3]
    assert not torch.equal(first.noise, other.noise)
    assert first.draws != other.draws


def test_what_is_random_does_not_touch_the_global_generator(shards):
    state = torch.get_rng_state()
    TrainingSamples(shards, sample_format())[0, 3]
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_normal_and_draws_are_uniform(shards):
    samples = TrainingSamples(shards, sample_format())
    drawn = [samples[0, place] for place in range(100)]
    noise, draws = torch.cat([b.noise for b in drawn]), torch.cat([b.draws for b in drawn])
    assert abs(noise.mean()) < 0.02
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert 0 <= draws.min() < 0.1
    assert 0.9 < draws.max() < 1
    assert draws.mean().item() == pytest.approx(0.5, abs=0.09)
    # Nor does one tell the other.
    assert abs(torch.corrcoef(torch.stack([noise.flatten(1).mean(1), draws]))[0, 1]) < 0.3


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.3, 18, 42), (1.0, 100, 100)])
def test_the_share_of_empty_prompts(shards, share, least, most):
    samples = TrainingSamples(shards, sample_format(null_prompt=share))
    stored = load(sample_members(0)["safetensors"])["prompt_embeds"]
    assert not torch.equal(stored, null_prompt())
    draws = {True: [], False: []}
    for place in range(100):
        batch = samples[0, place]
        empty = torch.equal(batch.prompt_embeds[0], null_prompt())
        assert empty or torch.equal(batch.prompt_embeds[0], stored)
        draws[empty].append(batch.draws.item())
    assert least <= len(draws[True]) <= most
    for some in draws.values():  # they come at all timesteps
        assert not some or (min(some) < 0.3 and max(some) > 0.7)


def test_an_empty_prompt_changes_nothing_else(shards):
    never, always = (TrainingSamples(shards, sample_format(null_prompt=share))[0, 5] for share in (0.0, 1.0))
    assert not torch.equal(never.prompt_embeds, always.prompt_embeds)
    assert_same(replace(never, prompt_embeds=always.prompt_embeds), always)


def test_the_first_latent_frame_is_repeated_where_tokens_span_two(shards):
    grids = {LONG: (2, 2, 3), SMALL: (1, 2, 3)}
    plain = TrainingSamples(shards, sample_format())
    samples = TrainingSamples(shards, sample_format(grids=grids, patch_frames=2))
    long = samples[2, 0]
    assert plain[2, 0].latents.shape[1] == 3
    assert torch.equal(long.latents[:, 1:], plain[2, 0].latents)
    assert torch.equal(long.latents[:, 0], long.latents[:, 1])
    assert long.noise.shape == long.latents.shape
    assert not torch.equal(long.noise[:, 0], long.noise[:, 1])
    assert long.labels.shape == (1, 2 * 2 * 3)
    assert torch.equal(long.labels[:, :6], plain[2, 0].labels[:, :6])
    assert samples[0, 0].latents.shape[1] == 2  # which divides


def test_bfloat16_shards_keep_their_dtype(tmp_path):
    batch = TrainingSamples(Shards(write_shards(tmp_path / "s", dtype=torch.bfloat16)), sample_format())[0, 0]
    assert (batch.latents.dtype, batch.prompt_embeds.dtype) == (torch.bfloat16, torch.bfloat16)
    assert (batch.noise.dtype, batch.id_embedding.dtype) == (torch.float32, torch.float32)


def test_collate_stacks_samples_of_one_size(shards):
    samples = TrainingSamples(shards, sample_format())
    parts = [samples[0, 0], samples[1, 1], samples[3, 2]]
    batch = collate(parts)
    for i, part in enumerate(parts):
        assert_same(Batch(**{f.name: getattr(batch, f.name)[i : i + 1] for f in fields(Batch)}), part)


def test_collate_refuses_samples_of_several_sizes(shards):
    samples = TrainingSamples(shards, sample_format())
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 6\) and \(2, 4, 4, 8\) and \(3, 4, 4, 6\).*batch_size to 1"):
        collate([samples[0, 0], samples[2, 1], samples[4, 2], samples[1, 3]])


def test_moving_a_batch_leaves_images_and_mask_where_the_vision_model_takes_them(shards):
    batch = TrainingSamples(shards, sample_format())[0, 0]
    moved = batch.to(torch.device("meta"))
    where = {f.name: getattr(moved, f.name).device.type for f in fields(Batch)}
    assert {name for name, device in where.items() if device == "cpu"} == {"images", "mask"}
    assert {f.name: getattr(batch, f.name).device.type for f in fields(Batch)} == dict.fromkeys(where, "cpu")


def test_batches_are_those_of_the_order_without_end(shards):
    samples = TrainingSamples(shards, sample_format(null_prompt=0.5))
    sizes = [(line["frames"], line["height"], line["width"]) for line in shards.index]
    order = numbers(MicroBatches(sizes, 2, samples.format.seed, start=1, stride=2), 5)
    read = list(islice(batches(samples, 2, start=1, stride=2, num_workers=0), 5))
    for batch, wanted in zip(read, order, strict=True):
        assert_same(batch, collate([samples[place] for place in wanted]))
    assert len({place for wanted in order for _, place in wanted}) == 10


def test_two_workers_read_what_the_training_process_would_read(shards):
    samples = TrainingSamples(shards, sample_format(null_prompt=0.5))
    alone, ahead = (batches(samples, 1, start=2, stride=1, num_workers=workers) for workers in (0, 2))
    for _ in range(9):
        assert_same(next(alone), next(ahead))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", ["json", "safetensors", "maps.png", "aligned.png", "aligned_map.png"])
def test_a_damaged_file_of_a_sample_ends_in_one_line_that_names_the_shard_and_the_sample(tmp_path, name, workers):
    shards = Shards(write_shards(tmp_path, [SMALL]))
    line = shards.index[0]
    path = tmp_path / line["shard"]
    content = shards.members(0)[name]
    path.write_bytes(path.read_bytes().replace(content, content[:9] + bytes(len(content) - 9)))
    samples = TrainingSamples(Shards(tmp_path), sample_format())
    with pytest.raises(ValueError, match=rf"^'.*{line['shard']}' is damaged at {line['key']} \(") as caught:
        next(batches(samples, 1, start=0, stride=1, num_workers=workers))
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)
