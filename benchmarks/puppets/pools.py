"""Drawn frames and photos in the memory of the GPU, drawn anew a few at a time while a network learns from them."""

# n entries · f frames of a clip · k frames kept of it · h w pixels

import time
from collections.abc import Callable

import torch
from pixels import from_vae, to_vae
from torch import Tensor

from lavieid_adapters.puppets.world.draw import FRAMES, PHOTO_SIZE, draw_clips, draw_photos
from lavieid_adapters.puppets.world.person import People, people

Draw = Callable[[int], dict[str, Tensor]]


class Pool:
    """A ring of entries, each field a tensor.

    Args:
        draw: Draws the i-th chunk of entries; all chunks are of one size.
        chunks: How many of them are held.
    """

    def __init__(self, draw: Draw, chunks: int):
        self._draw, self._chunks, self.drawn = draw, chunks, 0
        self.fields: dict[str, Tensor] = {}
        self._chunk = 0

    def __len__(self) -> int:
        return min(self.drawn, self._chunks) * self._chunk

    def draw(self) -> None:
        """Draw one more chunk, in place of the oldest if the pool is full."""
        new = self._draw(self.drawn)
        if not self.fields:
            self._chunk = len(next(iter(new.values())))
            self.fields = {k: v.new_empty(self._chunk * self._chunks, *v.shape[1:]) for k, v in new.items()}
        at = self.drawn % self._chunks * self._chunk
        for name, value in new.items():
            self.fields[name][at : at + self._chunk] = value
        self.drawn += 1

    def fill(self, deadline: float) -> "Pool":
        """Draw until the pool is full, or until `time.perf_counter()` has reached the deadline; one chunk at least."""
        while self.drawn < self._chunks and (not self.drawn or time.perf_counter() < deadline):
            self.draw()
            if next(iter(self.fields.values())).is_cuda:
                torch.cuda.synchronize()  # else the deadline would be that of the orders, not of the drawing
        return self

    def sample(self, count: int) -> dict[str, Tensor]:
        """Entries drawn with replacement."""
        device = next(iter(self.fields.values())).device
        index = torch.randint(len(self), (count,), device=device)
        return {name: value[index] for name, value in self.fields.items()}


def cast(seeds: range, device: torch.device) -> People:
    """The people of a range of seeds."""
    return people(torch.arange(seeds.start, seeds.stop), device)


def frames_of(
    crowd: People, clips: int, kept: int, vae=None, seed: int = 0, compiled: bool = False, share: int = 3
) -> Draw:
    """Draws chunks of some clips of people of a crowd, one after the other, with `kept` frames of each.

    Args:
        crowd: Whom to draw.
        clips: How many clips a chunk has.
        kept: How many of a clip's frames are kept; all of them in their order if as many as there are.
        vae: An `AutoencoderKLCogVideoX`: of every `share` chunks one is encoded and decoded by it.
        seed: Of the first clip.
        compiled: Draw by compiled functions.
        share: See `vae`.

    Returns:
        A function from the number of the chunk to images (n, 3, h, w), maps (n, h, w), prompts (n, 3), pose (n, 6) and
        person (n,), the index in the crowd; n is `clips` times `kept`.
    """
    device = crowd.values.device

    def draw(chunk: int) -> dict[str, Tensor]:
        numbers = torch.arange(chunk * clips, (chunk + 1) * clips, device=device)
        person = numbers % len(crowd)
        drawn = draw_clips(crowd[person], numbers + seed, compile=compiled)
        # Counted with the rounds through the crowd, so that each person is seen both ways.
        round_ = chunk * clips // len(crowd)
        video = drawn.video
        if vae is not None and (chunk + round_) % share == 0:
            video = through_vae(vae, video)
        if kept == FRAMES:
            moments = torch.arange(FRAMES, device=device).expand(clips, -1)
        else:
            moments = torch.rand(clips, FRAMES, device=device).argsort(dim=1)[:, :kept]
        row = torch.arange(clips, device=device)[:, None]
        return {
            "images": video[row, moments].flatten(0, 1),
            "maps": drawn.maps[row, moments].flatten(0, 1),
            "prompts": drawn.prompts.repeat_interleave(kept, dim=0),
            "pose": drawn.pose[row, moments].flatten(0, 1),
            "person": person.repeat_interleave(kept),
        }

    return draw


def photos_of(crowd: People, count: int, seed: int = 0, compiled: bool = False, size: int = PHOTO_SIZE) -> Draw:
    """Draws chunks of `count` photos of people of a crowd, one after the other; as `frames_of`, with images, maps and
    person."""
    device = crowd.values.device

    def draw(chunk: int) -> dict[str, Tensor]:
        numbers = torch.arange(chunk * count, (chunk + 1) * count, device=device)
        person = numbers % len(crowd)
        photos = draw_photos(crowd[person], numbers + seed, size=size, compile=compiled)
        return {"images": photos.images, "maps": photos.maps, "person": person}

    return draw


@torch.no_grad()
def through_vae(vae, video: Tensor, batch: int = 16) -> Tensor:
    """Videos (n, f, 3, h, w), uint8, encoded and decoded again."""
    parts = []
    for part in video.split(batch):
        latents = vae.encode(to_vae(part).to(vae.dtype)).latent_dist.mode()
        parts.append(from_vae(vae.decode(latents).sample))
    return torch.cat(parts)
