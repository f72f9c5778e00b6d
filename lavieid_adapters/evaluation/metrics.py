"""Figures of videos: pure functions on features, which some other model has computed, and on pixels."""

# n m videos or samples · f frames · d channels · h w pixels · b batch · r routes · t video tokens · c components

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Interval(NamedTuple):
    """A mean and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


def face_similarity(
    embeddings: Tensor, reference: Tensor, mask: Tensor | None = None, *, skip_missing: bool = False
) -> Tensor:
    """Return the likeness of the person in each video to its reference: the mean over the frames of the cosine between
    their face embeddings (FaceSim of table 2). Negative cosines stay negative.

    A frame without a face counts as 0. Otherwise a method would win by showing the face only where it succeeds, and
    figures with different rules for such frames cannot be compared.

    Args:
        embeddings: Of each frame, (n, f, d), floating point; of any value where there is no face.
        reference: Of each reference photo, (n, d).
        mask: (n, f), bool; False where a frame has no face. None if each has one.
        skip_missing: Take the mean over the frames with a face instead.

    Returns:
        (n,), -1 to 1, in float32 or wider; NaN with `skip_missing` for a video that never shows a face.

    Raises:
        ValueError: If a shape does not fit.
    """
    _check_features(embeddings)
    n, f, d = embeddings.shape
    if tuple(reference.shape) != (n, d):
        raise ValueError(
            f"reference has shape {tuple(reference.shape)}, but embeddings of {(n, f, d)} need ({n}, {d}): one "
            "reference a video."
        )
    if mask is None:
        mask = torch.ones(n, f, dtype=torch.bool, device=embeddings.device)
    elif tuple(mask.shape) != (n, f) or mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype} of {tuple(mask.shape)}, but must be bool of ({n}, {f}).")
    cosines = F.cosine_similarity(_wide(embeddings), _wide(reference)[:, None], dim=-1)
    total = cosines.masked_fill(~mask, 0).sum(dim=1)
    return total / mask.sum(dim=1) if skip_missing else total / f


def temporal_consistency(features: Tensor) -> Tensor:
    """Return how much the frames of each video look alike: VBench's formula for its subject consistency, where the
    features are of the subject, and for its background consistency, where they are of the background.

    The mean over all frames but the first of (cosine to the first frame + cosine to the frame before) / 2, as printed
    in the supplement of VBench (Huang et al., CVPR 2024). VBench's code also raises negative cosines to 0; this does
    not.

    Args:
        features: Of each frame, (n, f, d), floating point.

    Returns:
        (n,), -1 to 1, in float32 or wider.

    Raises:
        ValueError: If the shape does not fit, or if there are fewer than two frames.
    """
    _check_features(features)
    if features.shape[1] < 2:
        raise ValueError(f"features has {features.shape[1]} frames, but consistency over time needs at least 2.")
    unit = F.normalize(_wide(features), dim=-1)
    later = unit[:, 1:]
    return ((later * unit[:, :1]).sum(-1) + (later * unit[:, :-1]).sum(-1)).mean(dim=1) / 2


def flicker(video: Tensor) -> Tensor:
    """Return the mean absolute difference of successive frames.

    VBench's temporal flickering is (255 - this) / 255 for pixels of 0 to 255. VBench takes it on videos of still scenes
    alone, since all that moves counts as well; for moving pictures there is `second_difference_flicker`.

    Args:
        video: (n, f, 3, h, w), uint8 or floating point.

    Returns:
        (n,), in the units of the pixels, float32 or wider.

    Raises:
        ValueError: If the shape does not fit, or if there are fewer than two frames.
    """
    video = _signed(video, least=2)
    return _mean_magnitude(video[:, 1:] - video[:, :-1])


def second_difference_flicker(video: Tensor) -> Tensor:
    """Return the mean absolute second difference of the frames, |x[t+1] - 2 x[t] + x[t-1]|: flicker without a warp.

    A pixel that brightens or darkens steadily, as under smooth motion of soft structure, costs nothing; one that goes
    to and fro from frame to frame costs twice what it does in `flicker`.

    Args:
        video: (n, f, 3, h, w), uint8 or floating point.

    Returns:
        (n,), in the units of the pixels, float32 or wider.

    Raises:
        ValueError: If the shape does not fit, or if there are fewer than three frames.
    """
    video = _signed(video, least=3)
    return _mean_magnitude(video[:, 2:] - 2 * video[:, 1:-1] + video[:, :-2])


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Return the squared Fréchet distance of two normal distributions fitted to features (Dowson and Landau, 1982; FID
    by Heusel et al., 2017): |mu_a - mu_b|² + tr(C_a + C_b - 2 (C_a^½ C_b C_a^½)^½).

    Args:
        features_a: (n, d), floating point, n > d.
        features_b: (m, d), m > d.

    Returns:
        0 or more, computed in float64.

    Raises:
        ValueError: If a shape does not fit, if a set has not more samples than channels, so that its covariance has no
            full rank, or if a value is not finite.
    """
    if features_a.ndim != 2 or features_b.ndim != 2 or features_a.shape[1] != features_b.shape[1]:
        raise ValueError(
            f"The features have shapes {tuple(features_a.shape)} and {tuple(features_b.shape)}, but must be (n, d) and "
            "(m, d)."
        )
    for features in (features_a, features_b):
        n, d = features.shape
        if n <= d:
            raise ValueError(f"{n} samples of {d} channels have no covariance of full rank: give at least {d + 1}.")
        if not features.isfinite().all():
            raise ValueError("The features hold values that are not finite: leave out the samples that have them.")
    a, b = features_a.double(), features_b.double()
    covariance_a, covariance_b = torch.cov(a.T).reshape(d, d), torch.cov(b.T).reshape(d, d)
    values, vectors = torch.linalg.eigh(covariance_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    product = root @ covariance_b @ root
    # The eigenvalues of a matrix and of its root: the trace needs no second root.
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * cross
    return max(distance.item(), 0.0)


def route_iou(weights: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    """Return the intersection over union of the tokens that each route takes with those that show its component, over
    all labelled tokens of the batch.

    A route takes a token if no other has a larger weight there. As in eq. 5 (`route_loss`), tokens of no component
    count only where the router has a background route, since otherwise one of the components must take them.

    Args:
        weights: Of the routes, or their logits, (b, r, t): r is c, or c + 1 with a background route behind them.
        labels: What `token_labels` gives, (b, t), int64: 0 to c - 1, c for no component, `ignore_index` where it is
            not known.
        ignore_index: The label of tokens that are left out, as in `torch.nn.functional.cross_entropy`.

    Returns:
        (r,), 0 to 1, float64; NaN for a component that no labelled token shows and that no token is routed to.

    Raises:
        ValueError: If the shapes do not fit, or if a label is negative and not `ignore_index`.
    """
    if weights.ndim != 3 or labels.shape != (weights.shape[0], weights.shape[2]):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} for weights of {tuple(weights.shape)}, but must be (batch, "
            "tokens) for (batch, routes, tokens)."
        )
    routes = weights.shape[1]
    known = labels != ignore_index
    if known.any() and (lowest := labels[known].min().item()) < 0:
        raise ValueError(
            f"labels holds {lowest}, but no label is negative except ignore_index, {ignore_index}. Give the "
            "ignore_index that these labels were made with."
        )
    counted = known & (labels < routes)
    taken, true = weights.argmax(dim=1)[counted], labels[counted]
    hits = torch.bincount(true[taken == true], minlength=routes)
    return hits / (torch.bincount(taken, minlength=routes) + torch.bincount(true, minlength=routes) - hits).double()


def bootstrap_interval(
    values: Tensor, groups: Tensor | None = None, confidence: float = 0.95, samples: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean and its percentile bootstrap interval (Efron, 1979): whole groups are drawn with replacement.

    Several videos of one person are not independent: drawn one by one they would make the interval too narrow.

    Args:
        values: (n,), floating point.
        groups: Which group each value belongs to, (n,), integers of any value; None if each is a group of its own.
        confidence: Share of the means that the interval holds, between 0 and 1.
        samples: How many means are drawn.
        seed: Of the draws.

    Returns:
        The mean of the values, and the interval's bounds.

    Raises:
        ValueError: If the shapes do not fit, there is no value, one is not finite, or a setting is out of range.
    """
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values has shape {tuple(values.shape)}, but must be (n,) with n at least 1.")
    if groups is not None and groups.shape != values.shape:
        raise ValueError(f"groups has shape {tuple(groups.shape)} for values of {tuple(values.shape)}: one a value.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, but must lie between 0 and 1.")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples is {samples!r}, but must be a whole number of at least 1.")
    values = values.detach().cpu().double()
    if not values.isfinite().all():
        raise ValueError(f"{(~values.isfinite()).sum()} of {len(values)} values are not finite: leave them out.")
    index = torch.arange(len(values)) if groups is None else groups.cpu().unique(return_inverse=True)[1]
    counts = torch.bincount(index).double()
    sums = torch.zeros_like(counts).index_add_(0, index, values)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(counts), (samples, len(counts)), generator=generator)
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    bounds = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    return Interval(values.mean().item(), *means.quantile(bounds).tolist())


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_features(features: Tensor) -> None:
    if features.ndim != 3 or not features.is_floating_point():
        raise ValueError(
            f"The features are {features.dtype} of shape {tuple(features.shape)}, but must be floating point of "
            "(videos, frames, channels)."
        )


def _signed(video: Tensor, least: int) -> Tensor:
    """Return the video in a dtype that holds differences of its pixels exactly, or in float32 or wider."""
    if video.ndim != 5 or video.shape[1] < least:
        raise ValueError(
            f"video has shape {tuple(video.shape)}, but must be (videos, frames, channels, height, width) of at least "
            f"{least} frames."
        )
    return _wide(video) if video.is_floating_point() else video.to(torch.int16)


def _mean_magnitude(differences: Tensor) -> Tensor:
    wide = differences.dtype if differences.is_floating_point() else torch.float64
    return (
        differences.abs().flatten(1).mean(dim=1, dtype=wide).to(torch.promote_types(differences.dtype, torch.float32))
    )
