"""The demo: a drawn person's photo, a prompt, and what the base makes of them without and with LaVieID."""

# f frames · h w pixels

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import features

from ..attachment.attach import attach_lavieid
from ..files.atomic import written_aside
from ..models.identity import FACIAL_COMPONENTS, Identity
from ..visualize.route_video import of_frames, route_overlay, write_video
from .panels import Panel, contact_sheet, side_by_side_frames, with_insets
from .pipeline import load_pipeline
from .world.draw import FPS, draw_photos
from .world.grammar import prompt_ids
from .world.person import TEST_PEOPLE, people


def run_demo(
    out: str | os.PathLike,
    prompt: str,
    *,
    identity: int = 3,
    mix: Mapping[str, int] | None = None,
    component_scales: Mapping[str, float] | None = None,
    tam: bool = True,
    seed: int = 0,
    steps: int = 20,
    guidance: float = 4.0,
) -> str:
    """Generate one video without and with LaVieID, and write both beside the reference and the route map.

    Args:
        out: The folder that gets `demo.mp4`, `demo.webp` (or `demo.gif`) and `demo.png`.
        prompt: What happens, in the words of `caption`.
        identity: Number of one of TEST_PEOPLE, whom no model has seen in training.
        mix: Components that come from others, by their numbers.
        component_scales: Strengths of components, where they are not 1.
        tam: Whether TAM acts, too.
        seed: Of the noise and the photos.
        steps: Denoising steps.
        guidance: Guidance scale.

    Returns:
        What was written, and what to look at.

    Raises:
        ValueError: If the prompt, a number or a name is not known.
        FileNotFoundError: If the weights are not there.
    """
    mix, component_scales, out = dict(mix or {}), dict(component_scales or {}), Path(out)
    _check(identity, mix, component_scales, steps)
    prompt_ids(prompt)
    pipe = load_pipeline()
    numbers = [identity, *mix.values()]
    drawn = draw_photos(people([TEST_PEOPLE[number] for number in numbers]), [seed + i for i in range(len(numbers))])
    photos = drawn.images.permute(0, 2, 3, 1).numpy()

    lavieid = attach_lavieid(pipe)
    identities = [lavieid.encode(photo) for photo in photos]
    lavieid.set_identity(Identity.mix(identities[0], **dict(zip(mix, identities[1:], strict=True))))
    lavieid.component_scales = component_scales
    if not tam:
        lavieid.beta = 0.0

    def generate(what: str) -> np.ndarray:
        pipe.set_progress_bar_config(desc=f"{what:>15}")
        generator = torch.Generator().manual_seed(seed)
        settings = {"num_inference_steps": steps, "guidance_scale": guidance, "generator": generator}
        frames = pipe(prompt, output_type="np", **settings).frames[0]
        return (frames * 255).round().astype(np.uint8)

    with lavieid.disabled():
        base = generate("without LaVieID")
    with lavieid.record_routes() as routes:
        ours = generate("with LaVieID")
    weights = of_frames(routes[-1][-1].float().numpy(), len(ours))  # of guidance's two passes the prompt's is the last
    overlays = np.stack([route_overlay(frame, w) for frame, w in zip(ours, weights, strict=True)])

    lent = "".join(f", {name} of {number}" for name, number in mix.items())
    changed = "".join(f", {name} {scale:g}" for name, scale in component_scales.items())
    parts = "the router and TAM" if tam else "the router alone"
    reference = Panel("reference", f"person {identity}{lent}", with_insets(photos[0], photos[1:])[None])
    panels = [
        Panel("without LaVieID", "the base alone: the same prompt and noise", base),
        Panel("with LaVieID", f"{parts}{changed}", ours),
        Panel("where it is routed", None, overlays),
    ]
    files = _write(out, reference, panels, prompt)
    whose = "".join(f", with the {name} of person {number}" for name, number in mix.items())
    free = "".join(f", and whatever {name} the base gives" for name, scale in component_scales.items() if scale == 0)
    return (
        f"{files}\nWhat to look at: the third picture takes complexion and hair of the first{whose}{free}, and does "
        "what the prompt says; the second is what the same prompt and noise give without the photo; the fourth shows "
        "which component steers which place. Finer traits hardly follow: the training was short."
    )


def _check(identity: int, mix: Mapping, component_scales: Mapping, steps: int) -> None:
    for number in (identity, *mix.values()):
        if not 0 <= number < len(TEST_PEOPLE):
            raise ValueError(f"There is no person {number}. Give a number from 0 to {len(TEST_PEOPLE) - 1}.")
    for name in (*mix, *component_scales):
        if name not in FACIAL_COMPONENTS:
            raise ValueError(f"'{name}' is no component. Give one of {', '.join(FACIAL_COMPONENTS)}.")
    if steps < 1:
        raise ValueError(f"{steps} denoising steps are too few. Give at least 1.")


def _write(out: Path, reference: Panel, panels: list[Panel], prompt: str) -> str:
    """Write the video in both forms, and the contact sheet; return their names."""
    frames = side_by_side_frames([reference, *panels], prompt)
    webp = features.check("webp")
    moving = "demo.webp" if webp else "demo.gif"
    how = {"quality": 85, "method": 3} if webp else {}
    with written_aside(out) as aside:
        write_video(map(np.asarray, frames), aside / "demo.mp4", FPS)
        frames[0].save(
            aside / moving, save_all=True, append_images=frames[1:], duration=round(1000 / FPS), loop=0, **how
        )
        contact_sheet(reference, panels, prompt).save(aside / "demo.png")
    return f"{out}: demo.mp4, {moving} and the contact sheet demo.png"
