"""Training samples of the drawn world: clips as latents, with their prompts, labels and reference photos."""

# n samples · f latent frames · c channels · h w height and width of the latents · v video tokens · m components

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from crops import component_crops
from pixels import to_vae
from torch import Tensor

from lavieid_adapters.data.labels import IGNORED
from lavieid_adapters.faces.components import ALIGNED_SIZE, GREY, NUM_CLASSES
from lavieid_adapters.puppets import draw_clips, draw_photos
from lavieid_adapters.puppets.sight.alignment import alignment
from lavieid_adapters.puppets.sight.drawn_faces import VIEW
from lavieid_adapters.puppets.sight.reading import COMPONENT_SIZE, MIN_AREA
from lavieid_adapters.puppets.world.draw import Clips
from lavieid_adapters.puppets.world.person import People, people

GRID = (9, 12, 12)  # of video tokens
_AT_ONCE = 32
# The judges, and what the conditioning sees by, learn from the people from 0 and from 450,000 on, the base and the
# adapters from others each, and what they see was drawn from other seeds.
BASE_PEOPLE, ADAPTER_PEOPLE = 200_000, 300_000
CLIP_SEED, _PHOTO_SEED = 1 << 40, 1 << 41


@dataclass
class Samples:
    """Samples in the memory of the GPU.

    Attributes:
        latents: In the VAE's normalised space, (n, f, c, h, w).
        prompts: Tokens of the captions, (n, l), int64.
        labels: Component of each video token, (n, v), int64, as `token_labels` gives them.
        images: Each component of the reference alone on white, (n, m, s, s, 3), uint8.
        mask: (n, m), bool; False where the reference does not show the component.
        id_embedding: Of the reference, (n, 512), of length 1.
    """

    latents: Tensor
    prompts: Tensor
    labels: Tensor
    images: Tensor
    mask: Tensor
    id_embedding: Tensor

    def __len__(self) -> int:
        return len(self.latents)

    @classmethod
    def of(cls, vae, face, tokenizer, first: int, count: int) -> "Samples":
        """Draw a clip and a photo of each of `count` people from seed `first` on.

        Args:
            vae: On the device of training.
            face: A `FaceNet`, there too.
            tokenizer: Of the captions.
            first, count: Of the people.
        """
        device = vae.device
        seeds = torch.arange(first, first + count, device=device)
        crowd = people(seeds, device)
        latents, labels, captions = [], [], []
        for clips, part in encode_clips(vae, crowd, seeds + CLIP_SEED):
            latents.append(part)
            labels.append(batched_labels(clips.maps))
            captions += clips.captions
        references = [
            references_of(face, crowd[i : i + 128], seeds[i : i + 128] + _PHOTO_SEED) for i in range(0, count, 128)
        ]
        images, mask, embedding = (torch.cat(parts) for parts in zip(*references, strict=True))
        ids = token_ids(tokenizer, captions).to(device)
        return cls(torch.cat(latents), ids, torch.cat(labels), images, mask, embedding)


def token_ids(tokenizer, captions: list[str]) -> Tensor:
    """Tokens (n, l), int64, as the pipeline makes them."""
    length = tokenizer.model_max_length
    return tokenizer(captions, padding="max_length", max_length=length, return_tensors="pt").input_ids


@torch.no_grad()
def encode_clips(
    vae, crowd: People, seeds: Tensor, prompts: Tensor | None = None
) -> Iterator[tuple[Clips, torch.Tensor]]:
    """Draw a clip of each person, a few at a time.

    Args:
        vae: On the people's device.
        crowd: n people.
        seeds: (n,), of the clips.
        prompts: As in `draw_clips`, (n, 3).

    Yields:
        Some clips, and their latents in the VAE's normalised space, (n, f, c, h, w), in the VAE's dtype.
    """
    for begin in range(0, len(seeds), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        clips = draw_clips(crowd[part], seeds[part], None if prompts is None else prompts[part])
        latents = vae.encode(to_vae(clips.video).to(vae.dtype)).latent_dist.mode()
        yield clips, latents.transpose(1, 2) * vae.config.scaling_factor


def batched_labels(maps: Tensor) -> Tensor:
    """What `token_labels` gives for each of the maps (n, 33, h, w), uint8, on their device: (n, v), int64."""
    cell = maps.shape[-1] // GRID[2]
    shares = torch.stack([F.avg_pool2d((maps == c).float(), cell) for c in range(NUM_CLASSES)], dim=1)  # n c f H W
    later = shares[:, :, 1:].unflatten(2, (GRID[0] - 1, -1)).mean(3)
    share, winner = torch.cat([shares[:, :, :1], later], dim=2).flatten(2).max(dim=1)
    labels = torch.where(winner == 0, NUM_CLASSES - 1, winner - 1)
    return labels.masked_fill(share < 0.5, IGNORED)


@torch.no_grad()
def references_of(face, crowd: People, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the package's face processor makes of a photo of each person, with the true landmarks a pixel off, in batch
    and on the device.

    Args:
        face: A `FaceNet`.
        crowd: n people.
        seeds: (n,), of the photos.

    Returns:
        `images`, `mask` and `id_embedding` of `Samples`.
    """
    photos = draw_photos(crowd, seeds)
    generator = torch.Generator().manual_seed(int(seeds[0]))
    landmarks = photos.landmarks.cpu() - 0.5
    landmarks = landmarks + torch.randn(landmarks.shape, generator=generator) * 0.7
    matrices = torch.stack([torch.from_numpy(alignment(points)) for points in landmarks.double().numpy()])
    aligned = warp(photos.images, matrices.to(seeds.device))
    view = F.avg_pool2d(aligned, ALIGNED_SIZE // VIEW) / 127.5 - 1
    logits, embedding = face(view.to(face.dtype))
    maps = F.interpolate(logits.float(), (ALIGNED_SIZE, ALIGNED_SIZE), mode="bilinear").argmax(1).to(torch.uint8)
    least = round(MIN_AREA * ALIGNED_SIZE**2)
    crops, shown = zip(*(component_crops(a, m, COMPONENT_SIZE, least) for a, m in _pieces(aligned, maps)), strict=True)
    images = torch.cat(crops).round().to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous()
    return images, torch.cat(shown), F.normalize(embedding.float(), dim=1)


def warp(photos: Tensor, matrices: Tensor) -> Tensor:
    """Photos (n, 3, h, w), uint8, under affine matrices (n, 2, 3) that count from the middle of a pixel, as the aligner
    brings them to its template: (n, 3, 512, 512), float32 from 0 to 255."""
    n, _, height, width = photos.shape
    back = torch.linalg.inv(torch.cat([matrices, matrices.new_tensor([[[0, 0, 1]]]).expand(n, 1, 3)], dim=1))[:, :2]
    axis = torch.arange(ALIGNED_SIZE, device=photos.device, dtype=torch.float64)
    points = torch.stack([axis.expand(ALIGNED_SIZE, -1), axis[:, None].expand(-1, ALIGNED_SIZE)], dim=-1)
    points = points @ back[:, None, :, :2].mT + back[:, None, None, :, 2]
    places = (2 * points + 1) / points.new_tensor([width, height]) - 1
    grey = photos.new_tensor(GREY).float()[:, None, None]
    return F.grid_sample(photos.float() - grey, places.float(), align_corners=False) + grey


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(16) for tensor in tensors), strict=True)
