"""The rows of the ablation: how the videos of each come about, what that needs, and where it is kept."""

import re
from pathlib import Path
from typing import NamedTuple

import torch
from train_adapters import is_trained

REAL = "real clips through the VAE"
STRONG = "router, lambda_diff = 10"
STRONG_TAM = "lambda_diff = 10, LaVieID's TAM"
AS_SHIPPED = f"as shipped: {STRONG_TAM}, mirror_first"
LONG_TAM = f"{STRONG_TAM} trained twice as long, mirror_first"
PALER = f"{STRONG}, at 0.92 of the contrast"


class Row(NamedTuple):
    """How the videos of a row come about.

    Attributes:
        source: The adapters that make the latents, the base alone, or clips that were drawn.
        tam: Which one refines them, if any does.
        chunks: In which it does so.
        mirror_first: Whether it refines the first chunk as well.
        contrast: Factor of each frame's distance from its mean colour.
    """

    source: str
    tam: str | None = None
    chunks: int = 4
    mirror_first: bool = False
    contrast: float = 1.0


ROWS = {
    "base": Row("base"),
    "unrouted, on LaVieID's encoder": Row("unrouted-given"),
    "router": Row("lavieid"),
    "TAM": Row("base", "tam-alone"),
    "LaVieID": Row("lavieid", "tam"),
    "router, trained again": Row("lavieid-again"),
    "router, on LaVieID's encoder": Row("router-given"),
    "router, lambda_diff = 10, on LaVieID's encoder": Row("strong-diffusion-given"),
    "router without L_route, on LaVieID's encoder": Row("no-route-loss-given"),
    "unrouted": Row("unrouted"),
    "unrouted, learning rate / 3": Row("unrouted-slow"),
    "unrouted, learning rate / 10": Row("unrouted-slower"),
    "router without L_route": Row("no-route-loss"),
    "router without L_route, learning rate / 3": Row("no-route-loss-slow"),
    STRONG: Row("strong-diffusion"),
    "router, lambda_diff = 10, trained again": Row("strong-diffusion-again"),
    "router, lambda_diff = 10, twice as long": Row("strong-diffusion-long"),
    STRONG_TAM: Row("strong-diffusion", "tam"),
    "router with a background route": Row("background"),
    "router with a background route, learning rate / 3": Row("background-slow"),
    "router after the middle block": Row("middle"),
    "router after the last block": Row("last"),
    "router, eqs. 2 and 3 as printed": Row("literal"),
    "LaVieID's TAM on the base": Row("base", "tam"),
    "LaVieID, TAM trained on one step": Row("lavieid", "tam-one-step"),
    "LaVieID, TAM trained twice as long": Row("lavieid", "tam-long"),
    "LaVieID, K = 1 (TAM rests)": Row("lavieid", "tam", 1),
    "LaVieID, K = 2 (trained with 4)": Row("lavieid", "tam", 2),
    "LaVieID, K = 8 (trained with 4)": Row("lavieid", "tam", 8),
    AS_SHIPPED: Row("strong-diffusion", "tam", mirror_first=True),
    LONG_TAM: Row("strong-diffusion", "tam-long", mirror_first=True),
    PALER: Row("strong-diffusion", contrast=0.92),  # about as much as the shipped TAM leaves
    REAL: Row("drawn"),
}


def lacking(out: Path, row: str) -> list[str]:
    """The trained adapters that a row needs and a folder of results has not."""
    wanted = {ROWS[row].source, ROWS[row].tam} - {None, "base", "drawn"}
    parts = {"lavieid" if part == "literal" else part for part in wanted}
    return sorted(part for part in parts if not is_trained(out, part))


def file_of(folder: Path, row: str) -> Path:
    """Where a row is kept."""
    return folder / f"{re.sub('[^A-Za-z0-9]+', '-', row).strip('-').lower()}.pt"


def read_rows(folder: Path) -> dict[str, dict]:
    """All rows that were judged, in order."""
    return {name: torch.load(file_of(folder, name)) for name in ROWS if file_of(folder, name).is_file()}
