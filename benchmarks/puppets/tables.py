"""What the ablation found, as Markdown: each row with its intervals, and the comparisons that the paper makes."""

# n videos

import torch
from rows import AS_SHIPPED, LONG_TAM, PALER, REAL, STRONG, STRONG_TAM
from torch import Tensor

from lavieid_adapters.evaluation.metrics import Interval, bootstrap_interval, frechet_distance
from lavieid_adapters.models.identity import FACIAL_COMPONENTS

_NOTHING = Interval(*[float("nan")] * 3)
_OF_TAM = ("FaceSim", "subject", "subject later", "background", "background later", "second difference", "contrast")
# A row beside another, of a figure.
COMPARISONS = (
    ("FaceSim", "LaVieID", "unrouted"),
    ("FaceSim", "router", "unrouted"),
    ("FaceSim", "router", "TAM"),
    ("FaceSim", "LaVieID's TAM on the base", "base"),
    ("FaceSim", "router", "router without L_route"),
    ("FaceSim", "router", "unrouted, learning rate / 3"),
    ("FaceSim", "router", "unrouted, learning rate / 10"),
    ("FaceSim", "router", "router without L_route, learning rate / 3"),
    ("FaceSim", "router, on LaVieID's encoder", "unrouted, on LaVieID's encoder"),
    ("FaceSim", "router without L_route, on LaVieID's encoder", "unrouted, on LaVieID's encoder"),
    ("FaceSim", "router, lambda_diff = 10, on LaVieID's encoder", "unrouted, on LaVieID's encoder"),
    ("FaceSim", "router", "unrouted, on LaVieID's encoder"),
    ("FaceSim", "LaVieID", "unrouted, on LaVieID's encoder"),
    ("FaceSim", "router, trained again", "router"),
    ("FaceSim", STRONG, "router"),
    ("FaceSim", "router, lambda_diff = 10, trained again", "router, trained again"),
    ("FaceSim", "router, lambda_diff = 10, twice as long", STRONG),
    ("FaceSim", STRONG_TAM, "unrouted, on LaVieID's encoder"),
    ("FaceSim", "router with a background route", "router"),
    ("FaceSim", "router with a background route, learning rate / 3", "router"),
    ("FaceSim", "router after the middle block", "router"),
    ("FaceSim", "router after the last block", "router"),
    *((f"{name} error", "router", "base") for name in FACIAL_COMPONENTS),
    *(
        (figure, first, second)
        for first, second in (
            ("TAM", "base"),
            ("LaVieID", "router"),
            ("LaVieID, TAM trained twice as long", "LaVieID"),
            (STRONG_TAM, STRONG),
            (AS_SHIPPED, STRONG),
            (AS_SHIPPED, STRONG_TAM),
            (LONG_TAM, STRONG),
            (LONG_TAM, AS_SHIPPED),
            (PALER, STRONG),
            (AS_SHIPPED, PALER),
        )
        for figure in _OF_TAM
    ),
    ("motion", "LaVieID", "base"),
    ("scene", "LaVieID", "base"),
)


def tables(rows: dict[str, dict]) -> str:
    """Means with 95 % intervals over people, and paired comparisons of rows.

    Args:
        rows: What was judged of each, as `ablation.py` keeps it.
    """
    figures = list(dict.fromkeys(name for report in rows.values() for name in report["figures"]))
    parts = [[f for f in figures if not f.endswith(("error", "seen"))], [f for f in figures if f.endswith("error")]]
    parts.append([f for f in figures if f.endswith("seen")])
    text = [table(rows, names, distance=i == 0) for i, names in enumerate(parts)]
    lines = ["| | difference | ratio |", "| --- | --- | --- |"]
    for figure, first, second in COMPARISONS:
        both = [rows[name]["figures"] for name in (first, second) if name in rows]
        if len(both) == 2 and all(figure in each for each in both):
            difference, ratio = paired(*(each[figure] for each in both), person_of(rows[first]))
            lines.append(f"| {figure}: {first}, beside {second} | {shown(difference)} | {shown(ratio)} |")
    return "\n\n".join([*text, "\n".join(lines)])


def table(rows: dict[str, dict], names: list[str], distance: bool) -> str:
    """Some figures of all rows; with `distance`, the Fréchet distance to the real clips as well, which has no interval
    and is the more above 0 the fewer videos there are."""
    heads = [*names, *(["Fréchet"] if distance else [])]
    lines = ["| | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for row, report in rows.items():
        cells = [interval_of(report, name) for name in names]
        cells = ["–" if i is _NOTHING else f"{i.mean:.3f} ± {(i.high - i.low) / 2:.3f}" for i in cells]
        if distance:
            cells.append(frechet(report, rows.get(REAL)))
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def interval_of(report: dict, name: str) -> Interval:
    """The mean of a figure with its interval, of the videos that have it; NaN if none has."""
    values = report["figures"].get(name, torch.empty(0)).double()  # rows judged earlier may lack a figure
    seen = values.isfinite()
    if not seen.any():
        return _NOTHING
    return bootstrap_interval(values[seen], person_of(report)[seen])


def person_of(report: dict) -> Tensor:
    """Whom each video of a row shows: (n,)."""
    videos, people = len(report["features"]), report["settings"]["people"]
    return torch.arange(videos) // (videos // people)


def paired(first: Tensor, second: Tensor, person: Tensor, samples: int = 2000) -> tuple[Interval, Interval]:
    """The difference and the ratio of two rows' means, with 95 % intervals: the same people are drawn for both.

    Args:
        first, second: Of the same videos in two rows, (n,); those that one of them lacks do not count.
        person: (n,).
        samples: How often people are drawn.
    """
    both = first.isfinite() & second.isfinite()
    if not both.any():
        return (_NOTHING,) * 2
    person, values = person[both], torch.stack([first[both], second[both], torch.ones(int(both.sum()))]).double()
    sums = torch.zeros(3, int(person.max()) + 1).double().index_add_(1, person, values)
    drawn = torch.randint(sums.shape[1], (samples, sums.shape[1]), generator=torch.Generator().manual_seed(0))
    above, below, count = sums[:, drawn].sum(2)
    bounds = torch.tensor([0.025, 0.975]).double()
    whole = sums.sum(1)
    mean, ratio = (whole[0] - whole[1]) / whole[2], whole[0] / whole[1]
    difference = Interval(mean.item(), *((above - below) / count).quantile(bounds).tolist())
    return difference, Interval(ratio.item(), *(above / below).quantile(bounds).tolist())


def shown(interval: Interval) -> str:
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def frechet(report: dict, real: dict | None) -> str:
    if real is None or report is real or report["features"].shape[0] <= report["features"].shape[1]:
        return ""
    return f"{frechet_distance(report['features'], real['features']):.1f}"
