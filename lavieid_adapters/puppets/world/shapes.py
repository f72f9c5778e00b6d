"""Signed distances and what is painted of them: analytic edges, with no supersampling.

Canvas and plate both paint by them.
"""

import torch
from torch import Tensor


def coverage(distance: Tensor, pixel: Tensor | float) -> Tensor:
    """Return how much of a pixel a shape covers, from the signed distance (negative inside) of its centre."""
    return (distance * (-1.0 / pixel)).add_(0.5).clamp_(0.0, 1.0)


def smoothstep(low: float, high: float, x: Tensor) -> Tensor:
    """Rise smoothly from 0 at low to 1 at high."""
    slope = 1.0 / (high - low)
    t = (x * slope).sub_(low * slope).clamp_(0.0, 1.0)
    return (t * -2.0).add_(3.0).mul_(t).mul_(t)


def bump(x: Tensor) -> Tensor:
    """Return a soft hill: 1 at 0, and 0 from ±1 on."""
    t = (x * x).neg_().add_(1.0).clamp_(min=0.0)
    return t.mul_(t)


def ellipse(x: Tensor, y: Tensor, rx: Tensor | float, ry: Tensor | float) -> Tensor:
    """Return the signed distance of an ellipse around the origin, right near its edge if it is nearly round."""
    fx, fy = x / rx, y / ry
    return torch.addcmul(fx * fx, fy, fy).sub_(1.0).mul_(0.25 * (rx + ry))


def circle(x: Tensor, y: Tensor, r: Tensor | float) -> Tensor:
    """Return the signed distance of a circle around the origin."""
    return torch.addcmul(x * x, y, y).sqrt_().sub_(r)


def box(x: Tensor, y: Tensor, rx: Tensor | float, ry: Tensor | float) -> Tensor:
    """Return the signed distance, by its larger side, of a rectangle around the origin."""
    return torch.maximum(x.abs() - rx, y.abs() - ry)


def smooth_max(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Return the larger of two fields, with the edge between them rounded over k."""
    h = (a - b).abs_().neg_().add_(k).clamp_(min=0.0)
    return torch.addcmul(torch.maximum(a, b), h, h, value=0.25 / k)


def smooth_min(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Return the smaller of two fields, with the edge between them filled over k."""
    h = (a - b).abs_().neg_().add_(k).clamp_(min=0.0)
    return torch.addcmul(torch.minimum(a, b), h, h, value=-0.25 / k)
