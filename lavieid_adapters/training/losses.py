"""What training minimises (section 3.4): eq. 1 by the scheduler's own prediction type, eq. 5, and their sum, eq. 6."""

# b batch · n video tokens · m components · r routes: the m components, and the background after them if there is one

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.labels import IGNORED
from .noising import prediction_target


def diffusion_loss(prediction: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor, scheduler) -> Tensor:
    """L_diff of eq. 1: the mean squared error of what the scheduler's prediction type asks the host for.

    For velocities this is the error of the denoised latents divided by 1 - alpha_bar, as diffusers trains CogVideoX.

    Args:
        prediction: The host's output, of the shape of `latents`.
        latents: Clean latents in the VAE's normalised space, (b, ...).
        noise: What they were noised with, of the same shape.
        timesteps: (b,).
        scheduler: A scheduler of diffusers.

    Returns:
        A number, in float32 or wider.

    Raises:
        ValueError: If the shapes differ, or the scheduler's prediction type is not known.
    """
    if noise.shape != latents.shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}, but the latents have {tuple(latents.shape)}.")
    if prediction.shape != latents.shape:
        raise ValueError(
            f"The host predicts {tuple(prediction.shape)} for latents of {tuple(latents.shape)}: a host that also "
            "takes images, or predicts variances, is not trained here."
        )
    wide = torch.promote_types(latents.dtype, torch.float32)
    target = prediction_target(scheduler, latents.to(wide), noise.to(wide), timesteps)
    return squared_error(prediction.to(wide), target)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean squared error, as a number that may be kept: that of `mse_loss` holds memory of its inputs' size."""
    return F.mse_loss(prediction, target, reduction="none").mean()


def route_targets(logits: Tensor, labels: Tensor, component_mask: Tensor | None = None) -> Tensor:
    """The labels that eq. 5 counts: others become `IGNORED`. Arguments as in `route_loss`.

    A component that the reference does not show cannot be chosen, so its tokens are nobody's; tokens of no component
    count only where the router has a background route.
    """
    routes = logits.shape[1]
    targets = labels.masked_fill(labels >= routes, IGNORED)
    if component_mask is not None:
        shown = F.pad(component_mask, (0, routes - component_mask.shape[1]), value=True)
        hidden = ~shown.gather(1, targets.clamp(min=0))
        targets = targets.masked_fill(hidden & (targets != IGNORED), IGNORED)
    return targets


def route_loss(logits: Tensor, labels: Tensor, component_mask: Tensor | None = None) -> Tensor:
    """L_route of eq. 5: the cross-entropy of the router's logits against component labels, as a mean over the tokens
    that have one; 0 if none has.

    Args:
        logits: What `LocalRouter.route_logits` gives, (b, r, n).
        labels: (b, n), int64: 0 to m - 1 for a component, m for no component, `IGNORED` where it is not known.
        component_mask: (b, m), bool; False where the reference does not show the component.

    Returns:
        A number, in float32 or wider.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check(logits, labels, component_mask)
    targets = route_targets(logits, labels, component_mask)
    wide = torch.promote_types(logits.dtype, torch.float32)
    total = F.cross_entropy(logits.to(wide), targets, ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=1)


def route_accuracy(logits: Tensor, labels: Tensor, component_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How many labelled tokens have their component as the largest logit, and how many labelled tokens there are.

    Arguments and errors as in `route_loss`.
    """
    _check(logits, labels, component_mask)
    targets = route_targets(logits, labels, component_mask)
    counted = targets != IGNORED
    return ((logits.argmax(dim=1) == targets) & counted).sum(), counted.sum()


def lavieid_loss(diffusion: Tensor, route: Tensor, lambda_diff: float = 1.0, lambda_route: float = 1.0) -> Tensor:
    """L_total of eq. 6: lambda_diff · L_diff + lambda_route · L_route.

    Args:
        diffusion: What `diffusion_loss` gives.
        route: What `route_loss` gives.
        lambda_diff, lambda_route: Their weights.
    """
    return lambda_diff * diffusion + lambda_route * route


def _check(logits: Tensor, labels: Tensor, component_mask: Tensor | None) -> None:
    if logits.ndim != 3 or labels.shape != (logits.shape[0], logits.shape[2]):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} for logits of {tuple(logits.shape)}, but must be (batch, tokens) "
            "for (batch, routes, tokens)."
        )
    if component_mask is None:
        return
    batch, routes, _ = logits.shape
    if tuple(component_mask.shape) not in ((batch, routes), (batch, routes - 1)):
        raise ValueError(
            f"component_mask has shape {tuple(component_mask.shape)} for logits of {tuple(logits.shape)}, but must be "
            f"({batch}, {routes}), or ({batch}, {routes - 1}) where the last route is the background."
        )
