"""Training samples: what shards hold, with the noise, the labels and the order that belong to a place in the run."""

# b batch · f frames · c channels · h w height and width of the latents · n text tokens · v video tokens · m components

import json
import multiprocessing
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..faces.components import component_images, component_mask
from .labels import token_labels
from .shards import DamagedSample, Shards, read_picture

SIGNALS = (signal.SIGTERM, signal.SIGINT)  # that ask a run to stop


@dataclass
class Batch:
    """Samples of one size, ready for a training step.

    Attributes:
        latents: Clean latents in the VAE's normalised space, (b, f, c, h, w).
        noise: What they are noised with, of the same shape, float32.
        draws: Uniform numbers from which timesteps are made, (b,), 0 to 1.
        prompt_embeds: Text embeddings, (b, n, d); the empty prompt's where that was drawn.
        labels: Component of each video token, (b, v), int64, as `token_labels` gives them.
        images: Each component of the reference alone on white, (b, m, s, s, 3), uint8.
        mask: (b, m), bool; False where the reference does not show the component.
        id_embedding: Identity embedding of the reference, (b, i).
    """

    latents: Tensor
    noise: Tensor
    draws: Tensor
    prompt_embeds: Tensor
    labels: Tensor
    images: Tensor
    mask: Tensor
    id_embedding: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Move all to a device, but for the images and their mask: the vision model takes them from the CPU."""
        moved = [f.name for f in fields(self) if f.name not in ("images", "mask")]
        return replace(self, **{name: getattr(self, name).to(device) for name in moved})


@dataclass(frozen=True)
class SampleFormat:
    """The settings by which a run reads samples from shards.

    Attributes:
        grids: The host's token grid for each size (frames, height, width) of a clip.
        temporal_compression: Frames a latent frame.
        patch_frames: Latent frames a token.
        threshold: As in `token_labels`.
        image_size, grayscale: Side and colours of the components' images, as the vision model takes them.
        null_prompt: Share of samples that get the empty prompt.
        seed: Of noise, timesteps and empty prompts.
    """

    grids: Mapping[tuple[int, int, int], tuple[int, int, int]]
    temporal_compression: int
    patch_frames: int
    threshold: float
    image_size: int
    grayscale: bool
    null_prompt: float
    seed: int


class TrainingSamples(Dataset):
    """Samples by (index, place): the sample of the shards, and its place in the run's sequence of samples.

    All that is random about a sample follows from the seed and its place, so that it is the same on any number of
    GPUs, and after a restart.
    """

    def __init__(self, shards: Shards, sample_format: SampleFormat):
        self.shards, self.format = shards, sample_format

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index_and_place: tuple[int, int]) -> Batch:
        index, place = index_and_place
        members = self.shards.members(index)
        with self.shards.reading(index):
            return self._made_of(members, place)

    def _made_of(self, members: Mapping[str, bytes], place: int) -> Batch:
        """Return the sample of these files at a place of the run."""
        tensors, about = load(members["safetensors"]), json.loads(members["json"])
        wanted, latents = self.format, tensors["latents"]
        # The host's tokens may span frames that do not divide: the first is repeated, as in `token_labels`.
        latents = torch.cat([latents[:1]] * (-len(latents) % wanted.patch_frames) + [latents])
        state = np.random.SeedSequence([wanted.seed, place]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]))
        draws = torch.rand(2, generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        size = about["frames"], about["height"], about["width"]
        maps = torch.from_numpy(read_picture(members["maps.png"])).view(size)
        labels = token_labels(
            maps,
            wanted.grids[size],
            temporal_compression=wanted.temporal_compression,
            patch_frames=wanted.patch_frames,
            threshold=wanted.threshold,
        )
        aligned, component_map = read_picture(members["aligned.png"]), read_picture(members["aligned_map.png"])
        images = component_images(aligned, component_map, about["hidden"], wanted.image_size, wanted.grayscale)
        prompt_embeds = self.shards.null_prompt if draws[1] < wanted.null_prompt else tensors["prompt_embeds"]
        images, mask = (torch.from_numpy(array) for array in (images, component_mask(about["hidden"])))
        id_embedding = tensors["id_embedding"]
        parts = (latents, noise, draws[0], prompt_embeds, labels, images, mask, id_embedding)
        return Batch(*(part[None] for part in parts))


def collate(samples: Sequence[Batch]) -> Batch:
    """Join several batches into one.

    Raises:
        ValueError: If their sizes differ.
    """
    sizes = sorted({tuple(sample.latents.shape[1:]) for sample in samples})
    if len(sizes) > 1:
        raise ValueError(
            f"A batch holds latents of {' and '.join(map(str, sizes))}. Put clips of one size into a batch, or set "
            "batch_size to 1."
        )
    return Batch(**{f.name: torch.cat([getattr(s, f.name) for s in samples]) for f in fields(Batch)})


class MicroBatches(Sampler):
    """The run's sequence of batches, from `start` on, without end: shuffled each epoch, each batch of one size.

    With several processes, process r takes batches r, r + world, ... The sequence itself depends on neither, nor on
    where it starts.

    Args:
        sizes: The size of each sample; samples of equal size may share a batch.
        batch_size: Samples a batch. What is left of a size in an epoch waits for the next shuffle.
        seed: Of the order.
        start: Number of the first batch.
        stride: How far it is to the next.

    Raises:
        ValueError: If no size has enough samples for a batch.
    """

    def __init__(self, sizes: Sequence, batch_size: int, seed: int, start: int = 0, stride: int = 1):
        self.batch_size, self.seed, self.start, self.stride = batch_size, seed, start, stride
        self._by_size = defaultdict(list)
        for i, size in enumerate(sizes):
            self._by_size[size].append(i)
        self.per_epoch = sum(len(members) // batch_size for members in self._by_size.values())
        if not self.per_epoch:
            counts = ", ".join(f"{len(members)} of {size}" for size, members in self._by_size.items()) or "none"
            raise ValueError(
                f"batch_size is {batch_size}, but the shards hold {counts}: lower it, or prepare more clips."
            )

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        number, epoch, order = self.start, -1, []
        while True:
            if number // self.per_epoch != epoch:
                epoch = number // self.per_epoch
                order = self._epoch(epoch)
            batch = order[number % self.per_epoch]
            yield [(index, number * self.batch_size + i) for i, index in enumerate(batch)]
            number += self.stride

    def _epoch(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, epoch])
        batches = []
        for members in self._by_size.values():
            shuffled = rng.permutation(members).tolist()
            starts = range(0, len(shuffled) - self.batch_size + 1, self.batch_size)
            batches += [shuffled[i : i + self.batch_size] for i in starts]
        return [batches[i] for i in rng.permutation(len(batches))]


def batches(samples: TrainingSamples, batch_size: int, *, start: int, stride: int, num_workers: int) -> Iterator[Batch]:
    """Yield the batches of a process without end, read ahead by `num_workers` processes.

    Arguments as in `MicroBatches`.

    Raises:
        ValueError: If a sample is damaged; it names the shard and the sample.
    """
    order = MicroBatches(samples.shards.sizes, batch_size, samples.format.seed, start, stride)
    context = None
    if num_workers:
        # A fork of a process that has threads, or uses CUDA, may hang. The server that forks the workers imports for
        # all of them.
        served = "forkserver" in multiprocessing.get_all_start_methods()  # not on Windows
        context = multiprocessing.get_context("forkserver" if served else "spawn")
        if served:
            context.set_forkserver_preload([__name__])
    loader = DataLoader(
        samples,
        batch_sampler=order,
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=_leave_signals,
        generator=torch.Generator(),  # else it draws from the run's own, whose state would tell of a restart
        multiprocessing_context=context,
    )
    # Processes inherit what is blocked when they start; what came in the meantime is delivered afterwards.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if hasattr(signal, "pthread_sigmask") else None
    try:
        return _named(iter(loader))
    finally:
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _named(loaded: Iterator[Batch]) -> Iterator[Batch]:
    """Yield what a loader yields, and take the traceback of its worker out of the message of a damaged sample."""
    try:
        yield from loaded
    except DamagedSample as error:
        raise DamagedSample(str(error).rpartition("DamagedSample: ")[2].strip()) from error


def _leave_signals(worker: int) -> None:
    """Ignore signals to the whole group: the training process hears them, and needs samples to end its step."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
