"""Pictures of what `ablation.py` found: `python benchmarks/puppets/plot.py --out DIR --to benchmarks/puppets`.

They need matplotlib (the extra `eval`).
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from ablation import photos_of
from PIL import Image, ImageDraw, ImageFont
from rows import read_rows
from tables import interval_of

from lavieid_adapters.puppets.world.person import EVALUATION_PEOPLE, people

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_SHOWN = {
    "FaceSim": "FaceSim, to the photo (higher is better)",
    "subject": "subject consistency (higher)",
    "background": "background consistency (higher)",
    "second difference": "second difference of frames (lower)",
    "styles right": "styles as in the photo (higher)",
}
_CELL, _MARGIN = 96, 6


def intervals(rows: dict[str, dict]) -> plt.Figure:
    """Each row's mean with its 95 % interval, a panel for each of some figures."""
    figure, axes = plt.subplots(1, len(_SHOWN), figsize=(17, 0.34 * len(rows) + 1.2), sharey=True)
    for axis, (name, title) in zip(axes, _SHOWN.items(), strict=True):
        mean, low, high = np.array([interval_of(report, name) for report in rows.values()]).T
        places = np.arange(len(rows))
        axis.errorbar(mean, places, xerr=[mean - low, high - mean], fmt="o", ms=5, capsize=3, color="#33567f")
        axis.set_title(title, fontsize=10)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(np.arange(len(rows)), list(rows))
    axes[0].invert_yaxis()
    figure.tight_layout()
    return figure


def contact_sheet(rows: dict[str, dict], count: int = 8) -> Image.Image:
    """The reference and the middle frame of each row, a column for each of some people."""
    count = min(count, *(len(report["video"]) for report in rows.values()))
    photos = photos_of(people(list(EVALUATION_PEOPLE[:count]))).permute(0, 2, 3, 1).numpy()
    left = 360
    middle = {name: report["video"][:count, 2].permute(0, 2, 3, 1).numpy() for name, report in rows.items()}
    lines = {"reference": photos, **middle}
    step = _CELL + _MARGIN
    sheet = Image.new("RGB", (left + count * step, len(lines) * step + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, pictures) in enumerate(lines.items()):
        top = _MARGIN + i * step
        draw.text((8, top + _CELL // 2 - 8), name, "black", ImageFont.load_default(14))
        for j, picture in enumerate(pictures):
            small = Image.fromarray(picture).resize((_CELL, _CELL), Image.Resampling.LANCZOS)
            sheet.paste(small, (left + j * step, top))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the stages' results")
    parser.add_argument("--to", type=Path, required=True, help="folder of the pictures")
    args = parser.parse_args()
    rows = read_rows(args.out / "ablation")
    intervals(rows).savefig(args.to / "ablation.png", dpi=80)
    contact_sheet(rows).save(args.to / "ablation_frames.jpg", quality=90)
    print(f"{len(rows)} rows: ablation.png and ablation_frames.jpg in {args.to}")


if __name__ == "__main__":
    main()
