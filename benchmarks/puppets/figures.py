"""How well networks of the drawn world do, in figures for a report."""

# n samples · q queries · d channels · p parameters · m components · k classes

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lavieid_adapters.faces.components import NUM_CLASSES
from lavieid_adapters.models.identity import FACIAL_COMPONENTS
from lavieid_adapters.puppets.world.person import PARAMETERS, STYLES

COMPONENT_OF = [FACIAL_COMPONENTS.index(p.component) for p in PARAMETERS]  # of each parameter
STYLE_COMPONENT_OF = [FACIAL_COMPONENTS.index(s.component) for s in STYLES]  # of each style
_GALLERY = 64


class ArcFace(nn.Module):
    """The loss of Deng et al., 2019: a softmax over cosines to each person's centre, in which the angle to the right
    one is widened by a margin."""

    def __init__(self, people: int, dim: int, margin: float = 0.3, scale: float = 30.0):
        super().__init__()
        self.centres = nn.Parameter(F.normalize(torch.randn(people, dim), dim=1))
        self.scale = scale
        self._cos, self._sin = torch.tensor(margin).cos().item(), torch.tensor(margin).sin().item()

    def forward(self, embeddings: Tensor, person: Tensor, counted: Tensor | None = None) -> Tensor:
        """The mean loss of embeddings (n, d) of persons (n,); of those that are `counted`, (n,), if given."""
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = F.normalize(embeddings.float(), dim=1) @ F.normalize(self.centres, dim=1).T
            right = cosines.gather(1, person[:, None])
            widened = right * self._cos - (1 - right.square()).clamp(min=1e-6).sqrt() * self._sin
            logits = self.scale * cosines.scatter(1, person[:, None], widened)
            loss = F.cross_entropy(logits, person, reduction="none")
        return loss.mean() if counted is None else (loss * counted).sum() / counted.sum().clamp(min=1)


def verification(references: Tensor, queries: Tensor, person: Tensor) -> dict[str, float]:
    """How well embeddings of unseen people tell them apart.

    Args:
        references: One of each person, (n, d), of length 1.
        queries: (q, d), of length 1.
        person: Whom each query shows, (q,).

    Returns:
        `auc` of all pairs, the share of queries whose own reference is the nearest of 64 (`rank1_of_64`), the share of
        right pairs above the score that one in a hundred wrong ones reaches, and the mean cosines.
    """
    scores = queries.float() @ references.float().T
    own = F.one_hot(person, len(references)).bool()
    same, other = scores[own], scores[~own].sort().values
    below = torch.searchsorted(other, same) + torch.searchsorted(other, same, right=True)
    # Galleries of neighbours in the order of people; the last ones have none of their own if they are too few.
    size = min(_GALLERY, len(references))
    gallery = (person // size).clamp(max=len(references) // size - 1)
    first = gallery * size
    nearest = scores.gather(1, first[:, None] + torch.arange(size, device=scores.device)).argmax(dim=1) + first
    inside = person < first + size
    strict = other[min(int(0.99 * len(other)), len(other) - 1)]
    return {
        "auc": (below.double().mean() / (2 * len(other))).item(),
        f"rank1_of_{size}": (nearest == person)[inside].double().mean().item(),
        "found_at_1_percent_false": (same > strict).double().mean().item(),
        "cosine_same": same.mean().item(),
        "cosine_other": other.mean().item(),
    }


def intersection_over_union(predicted: Tensor, true: Tensor) -> dict[str, float]:
    """Of each class of component maps (n, h, w), uint8, over all pixels, and the mean over components."""
    pairs = torch.bincount(
        true.flatten().long() * NUM_CLASSES + predicted.flatten().long(), minlength=NUM_CLASSES**2
    ).view(NUM_CLASSES, NUM_CLASSES)
    hits = pairs.diagonal()
    iou = (hits / (pairs.sum(0) + pairs.sum(1) - hits)).tolist()
    return {"mean": sum(iou[1:]) / len(FACIAL_COMPONENTS), **dict(zip(("none", *FACIAL_COMPONENTS), iou, strict=True))}


def trait_figures(values: Tensor, true: Tensor, visible: Tensor) -> dict:
    """How well parameters are read where their component is visible.

    Args:
        values, true: (n, p).
        visible: (n, m), bool.

    Returns:
        The share of the variance that is explained (R²) of each parameter, its mean of each component and of all, and
        the mean absolute error of each component.
    """
    counted = visible[:, COMPONENT_OF].double()
    total = counted.sum(0)
    values, true = values.double(), true.double()
    mean = (true * counted).sum(0) / total
    r2 = 1 - ((values - true) ** 2 * counted).sum(0) / ((true - mean) ** 2 * counted).sum(0)
    error = ((values - true).abs() * counted).sum(0) / total
    of = torch.tensor(COMPONENT_OF)
    r2, error = r2.cpu(), error.cpu()
    return {
        "r2_mean": r2.mean().item(),
        "r2_of_component": {name: r2[of == i].mean().item() for i, name in enumerate(FACIAL_COMPONENTS)},
        "error_of_component": {name: error[of == i].mean().item() for i, name in enumerate(FACIAL_COMPONENTS)},
        "r2": {p.name: value for p, value in zip(PARAMETERS, r2.tolist(), strict=True)},
    }


def accuracy(logits: Tensor, true: Tensor, counted: Tensor | None = None) -> float:
    """Share of right choices (n, k) against (n,), of those that are counted."""
    right = (logits.argmax(dim=1) == true).double()
    return (right.mean() if counted is None else (right * counted).sum() / counted.sum()).item()


def rounded(figures):
    """The figures with four digits behind the point."""
    if isinstance(figures, dict):
        return {name: rounded(value) for name, value in figures.items()}
    return round(figures, 4) if isinstance(figures, float) else figures
