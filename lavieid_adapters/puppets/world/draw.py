"""Clips and photos of drawn people, with the map of facial components, the caption and the pose of every frame."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .body import paint_body
from .brows import paint_brows, paint_glasses
from .canvas import Bounds, Canvas
from .eyes import paint_eyes
from .grammar import EXPRESSIONS, MOTIONS, SCENES, WORDINGS, caption
from .hair import Hair, head_extent
from .hashing import as_seeds, uniform
from .head import Head
from .head_pose import HeadPose
from .look import Light, Look
from .motion import Tracks, clip_tracks, photo_tracks
from .mouth import paint_mouth
from .nose import paint_nose
from .parallel import on_every_core
from .person import People
from .scenes import Backdrop, photo_backdrop, scene_backdrop, scene_light
from .skin import paint_beard, paint_cheeks

# n clips · f frames · h, w pixels

FRAMES, SIZE, FPS = 33, 96, 8
PHOTO_SIZE = 128
_CLIPS, _PHOTOS = 201, 202  # the streams of random numbers
_NUMBERS = 96  # of them
_AT_ONCE, _AT_ONCE_CPU = 128, 4  # clips on a GPU: some 6 GB; and on a core
_LARGE_BLOCK = 2**25 - 2**16  # bytes, just under the largest that has this effect


@dataclass(frozen=True, eq=False)
class Clips:
    """Drawn clips.

    Attributes:
        video: (n, f, 3, h, w) uint8.
        maps: (n, f, h, w) uint8; 0 none, 1 to 6 the FACIAL_COMPONENTS in their order.
        prompts: (n, 3) int64, the numbers of scene, motion and expression.
        captions: n sentences, that say the same.
        pose: (n, f, 6) float32: yaw, pitch and roll in radians (positive to the right of the picture, up, clockwise),
            the head's middle from the picture's, right and down, in units of the picture, and its distance, usually 1.
    """

    video: Tensor
    maps: Tensor
    prompts: Tensor
    captions: list[str]
    pose: Tensor


@dataclass(frozen=True, eq=False)
class Photos:
    """Drawn photos, one of each person.

    Attributes:
        images: (n, 3, h, w) uint8.
        maps: (n, h, w) uint8, as those of clips.
        landmarks: (n, 5, 2) float32, x and y in pixels from the upper left corner: the eyes, the tip of the nose and
            the corners of the mouth, from left to right in the picture.
    """

    images: Tensor
    maps: Tensor
    landmarks: Tensor


def draw_clips(
    people: People,
    seeds: Sequence[int] | Tensor,
    prompts: Tensor | None = None,
    *,
    frames: int = FRAMES,
    size: int = SIZE,
    compile: bool = False,
) -> Clips:
    """Draw one clip of each person, on the people's device.

    Movement, clothes, light and details of the background follow from the seed alone, identity from the person alone;
    what else is drawn, and on which device, changes roundings alone.

    Args:
        people: n people.
        seeds: (n,) whole numbers.
        prompts: (n, 3) int64, the numbers of scene, motion and expression; None takes them from the seeds.
        frames: How many frames, at FPS; of more or fewer than FRAMES, the motion takes as long as ever.
        size: Height and width in pixels.
        compile: Draw by a compiled function, of which the first call takes a minute or two.

    Returns:
        The clips.

    Raises:
        ValueError, TypeError: If seeds, prompts or sizes do not fit.
    """
    device = people.values.device
    seeds = _seeds(seeds, people)
    for name, value, least in (("frames", frames, 1), ("size", size, 32)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"draw_clips has {name} {value!r}, but needs a whole number from {least} on.")
    r = uniform(seeds, _NUMBERS, _CLIPS)
    prompts = _prompts(prompts, r[:, :3], len(seeds))
    scenes, motions, expressions = (row.tolist() for row in prompts.T.cpu())
    wordings = (r[:, 3] * len(WORDINGS)).to(torch.int64).tolist()
    captions = [caption(*row) for row in zip(scenes, motions, expressions, wordings, strict=True)]
    prompts = prompts.to(device)
    tracks = clip_tracks(r[:, 8:40], prompts[:, 1], prompts[:, 2], frames, FPS, FRAMES / FPS)
    lights = scene_light(prompts[:, 0], r[:, 72:80])
    draw = torch.compile(_draw, dynamic=False) if compile else _draw

    def part(some: slice) -> tuple[Tensor, ...]:
        backdrop = scene_backdrop(scenes[some], r[some, 40:72], size)
        return draw(people[some], tracks[some], backdrop, lights[some], r[some, 80:96], size)

    video, maps, pose, _ = _in_parts(part, len(seeds), device)
    return Clips(video, maps, prompts, captions, pose)


def draw_photos(
    people: People, seeds: Sequence[int] | Tensor, *, size: int = PHOTO_SIZE, compile: bool = False
) -> Photos:
    """Draw one reference photo of each person, on the people's device: other light, background, clothes, pose and size
    than any clip; the face looks to the camera within 25 degrees, neutral or smiling.

    Args:
        people: n people.
        seeds: (n,) whole numbers.
        size: Height and width in pixels.
        compile: Draw by a compiled function, of which the first call takes a minute or two.

    Returns:
        The photos.

    Raises:
        ValueError, TypeError: If seeds or size do not fit.
    """
    device = people.values.device
    seeds = _seeds(seeds, people)
    if not isinstance(size, int) or size < 32:
        raise ValueError(f"draw_photos has size {size!r}, but needs a whole number from 32 on.")
    r = uniform(seeds, _NUMBERS, _PHOTOS)
    tracks = photo_tracks(r[:, 8:40])
    draw = torch.compile(_draw, dynamic=False) if compile else _draw

    def part(some: slice) -> tuple[Tensor, ...]:
        backdrop, light = photo_backdrop(r[some, 40:72], size)
        return draw(people[some], tracks[some], backdrop, light, r[some, 80:96], size)

    images, maps, _, landmarks = _in_parts(part, len(seeds), device)
    return Photos(images[:, 0], maps[:, 0], landmarks[:, 0])


def _draw(
    people: People, tracks: Tracks, backdrop: Backdrop, light: Light, r: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    device = people.values.device
    grid = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size - 0.5
    colour = backdrop.frames(tracks.time, tracks.x, size)
    n, _, f = colour.shape[:3]
    labels = torch.zeros(n, f, size, size, device=device, dtype=torch.uint8)
    canvas = Canvas(colour, labels, grid[None, None, None, :], grid[None, None, :, None], size)
    pose = HeadPose(tracks, size)
    look = Look(people, light)
    around, below = _bounds(pose, look, size)
    view = canvas.view(around)
    head = Head(view, pose, look)
    hair = Hair(view, head)
    hair.paint_back(view)
    paint_body(canvas.view(below), head, r)
    part = view.copy()
    head.paint_ears(part, over=False)
    head.paint_skin(part)
    head.paint_ears(part, over=True)
    paint_cheeks(part, head)
    paint_beard(part, head)
    hair.paint_shadow(part)
    paint_mouth(part, head, tracks)
    paint_nose(part, head)
    paint_eyes(part, head, tracks)
    paint_brows(part, head, tracks)
    hair.paint_front(part)
    paint_glasses(part, head)
    view.restore(part)
    video = canvas.colour.mul_(255.0).add_(0.5).clamp_(0.0, 255.0).to(torch.uint8).permute(0, 2, 1, 3, 4).contiguous()
    parts = (tracks.yaw, tracks.pitch, tracks.roll, pose.x, pose.y, tracks.distance)
    return (
        video,
        labels,
        torch.cat([part.expand(n, f, 1, 1) for part in parts], 2)[..., 0],
        _landmarks(head, tracks, size),
    )


def _bounds(pose: HeadPose, look: Look, size: int) -> tuple[Bounds, Bounds]:
    """Bound the parts of the picture that hold all frames' heads, and their bodies.

    On a GPU both are the whole picture: to know better would mean to wait for it.
    """
    whole = Bounds(0, 0, size, size)
    if pose.x.is_cuda or torch.compiler.is_compiling():
        return whole, whole
    side, up, down = head_extent(look)
    corners = [pose.picture(u, v) for u in (-side, side) for v in (-up, down)]
    xs, ys = (torch.cat(values, 3) for values in zip(*corners, strict=True))
    left, top = ((float(values.min()) + 0.5) * size for values in (xs, ys))
    right, bottom = ((float(values.max()) + 0.5) * size for values in (xs, ys))
    around = Bounds(max(int(left) - 1, 0), max(int(top) - 1, 0), min(int(right) + 2, size), min(int(bottom) + 2, size))
    neck = float((pose.neck_y - 0.65 * pose.scale).min() + 0.5) * size
    return around, Bounds(0, min(max(int(neck) - 1, 0), size - 1), size, size)


def _landmarks(head: Head, tracks: Tracks, size: int) -> Tensor:
    pose, trait = head.pose, head.look.trait
    level, gap, mouth_y = trait["eye_level"], trait["eye_spacing"], trait["mouth_level"]
    half = trait["mouth_width"] * tracks.wide * 0.9
    corner = mouth_y - tracks.smile * 0.13 * half / 0.26 * (0.81 - 0.35)
    tip = level + 0.03 + trait["nose_length"]
    depth = head.face_depth
    lips = pose.place(0.0, mouth_y, depth(0.0, mouth_y) + 0.03)
    points = [pose.place(side * gap, level, depth(gap, level)) for side in (-1.0, 1.0)]
    places = [(point.u, point.v) for point in points]
    nose = pose.place(0.0, tip, depth(0.0, tip) + 0.15)
    places.append((nose.u, nose.v))
    places += [(lips.u + side * half * lips.wide, lips.v + (corner - mouth_y) * lips.high) for side in (-1.0, 1.0)]
    pairs = [torch.cat(pose.picture(u, v), 3) for u, v in places]
    return (torch.cat(pairs, 2) + 0.5) * size


def _seeds(seeds: Sequence[int] | Tensor, people: People) -> Tensor:
    seeds = as_seeds(seeds, people.values.device)
    if len(seeds) != len(people):
        raise ValueError(f"There are {len(people)} people and {len(seeds)} seeds. Give one seed a person.")
    if not len(seeds):
        raise ValueError("There are no people to draw. Give at least one.")
    return seeds


def _prompts(prompts: Tensor | None, r: Tensor, n: int) -> Tensor:
    counts = torch.tensor([len(SCENES), len(MOTIONS), len(EXPRESSIONS)], device=r.device)
    if prompts is None:
        return (r * counts).to(torch.int64)
    if not isinstance(prompts, Tensor) or prompts.dtype != torch.int64:
        kind = prompts.dtype if isinstance(prompts, Tensor) else type(prompts).__name__
        raise TypeError(f"The prompts are {kind}, but must be a tensor of torch.int64.")
    if prompts.shape != (n, 3):
        raise ValueError(f"The prompts have shape {tuple(prompts.shape)}, but {n} clips need ({n}, 3).")
    return prompts


def _in_parts(part: Callable[[slice], tuple[Tensor, ...]], n: int, device: torch.device) -> list[Tensor]:
    """Join what a function draws of 0 to n - 1: on a CPU a few at a time, whose frames fill the cache; on a GPU
    many."""
    step = _AT_ONCE_CPU if device.type == "cpu" else _AT_ONCE
    slices = [slice(i, min(i + step, n)) for i in range(0, n, step)]
    if device.type == "cpu":
        _keep_freed_memory()
        parts = on_every_core(lambda i: part(slices[i]), len(slices))
    else:
        parts = [part(some) for some in slices]
    return [torch.cat(row) for row in zip(*parts, strict=True)]


def _keep_freed_memory() -> None:
    # The C library gives a large block of memory back to the system when it is freed, and takes it anew for the next
    # one, page by page; unless a larger block has been freed before.
    torch.empty(_LARGE_BLOCK, dtype=torch.uint8)
