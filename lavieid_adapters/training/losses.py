"""The losses of section 3.4 (eqs. 1, 5 and 6), and the forward process of eq. 1 for every prediction type of diffusers.

`prediction_type` says what a scheduler asks the host for; everything above `diffusion_loss` follows from that.
"""

# b batch · n video tokens · m components · r routes: the m components, and the background after them if there is one

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.labels import IGNORED


def prediction_type(scheduler) -> str:
    """Return what a scheduler asks the host for: "epsilon", "v_prediction", "sample" or "flow_prediction".

    Raises:
        ValueError: If the scheduler asks for something else.
    """
    config = scheduler.config
    flow = type(scheduler).__name__.startswith("FlowMatch") or config.get("use_flow_sigmas", False)
    kind = "flow_prediction" if flow else config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction", "sample", "flow_prediction"):
        raise ValueError(
            f"{type(scheduler).__name__} has prediction_type {kind!r}, but training knows epsilon, v_prediction, "
            "sample and flow_prediction. Train with a scheduler of one of these."
        )
    return kind


def draw_timesteps(scheduler, draws: Tensor) -> Tensor:
    """Return the timesteps of uniform numbers: whole numbers for diffusion, any for flows.

    Args:
        scheduler: A scheduler of diffusers.
        draws: (b,), 0 inclusive to 1 exclusive.

    Returns:
        (b,), int64, or float32 for flows.
    """
    timesteps = draws * scheduler.config.num_train_timesteps
    return timesteps.float() if prediction_type(scheduler) == "flow_prediction" else timesteps.long()


def add_noise(scheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return the noisy latents of eq. 1.

    z_t = √ᾱ_t z_0 + √(1 - ᾱ_t) ε, and for flows z_t = (1 - t) z_0 + t ε with t from 0 to 1.

    `scheduler.add_noise` gives the same bits where diffusers defines it by ᾱ (DDPM, DDIM, CogVideoX). It cannot take
    its place: Euler, DPM-Solver and UniPC take the sigmas of an inference run, and flow matching knows only the
    timesteps of one.

    Args:
        scheduler: A scheduler of diffusers.
        latents: z_0, (b, ...).
        noise: ε, of the same shape.
        timesteps: (b,), from `draw_timesteps`.
    """
    signal, share = _levels(scheduler, latents, timesteps)
    return signal * latents + share * noise


def prediction_target(scheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return what the host should predict. Arguments as in `add_noise`.

    ε for "epsilon", z_0 for "sample", √ᾱ_t ε - √(1 - ᾱ_t) z_0 for "v_prediction", ε - z_0 for "flow_prediction".
    """
    kind = prediction_type(scheduler)
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return latents
    if kind == "flow_prediction":
        return noise - latents
    signal, share = _levels(scheduler, latents, timesteps)
    return signal * noise - share * latents


def denoised(scheduler, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Return the clean latents that one prediction implies: `prediction_target` solved for z_0.

    Args:
        scheduler: A scheduler of diffusers.
        prediction: The host's output, (b, ...).
        noisy: The latents that the host was given, of the same shape.
        timesteps: (b,).
    """
    kind = prediction_type(scheduler)
    if kind == "sample":
        return prediction
    signal, share = _levels(scheduler, noisy, timesteps)
    if kind == "flow_prediction":
        return noisy - share * prediction
    if kind == "v_prediction":
        return signal * noisy - share * prediction
    return (noisy - share * prediction) / signal


def denoise(
    scheduler, predict: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, timesteps: Tensor, steps: int
) -> Tensor:
    """Return the clean latents after some evenly spaced steps of DDIM with eta 0, which for flows are Euler's.

    Args:
        scheduler: A scheduler of diffusers.
        predict: Maps latents (b, ...) and timesteps (b,) to the host's output.
        noisy: (b, ...).
        timesteps: (b,), where the steps begin; they end at the clean latents.
        steps: Number of calls of `predict`; with one the result is that of `denoised`.
    """
    for left in range(steps, 0, -1):
        now = (timesteps * left / steps).to(timesteps.dtype)
        clean = denoised(scheduler, predict(noisy, now), noisy, now)
        if left == 1:
            break
        signal, share = _levels(scheduler, noisy, now)
        noise = (noisy - signal * clean) / share.clamp(min=torch.finfo(share.dtype).eps)
        noisy = add_noise(scheduler, clean, noise, (timesteps * (left - 1) / steps).to(timesteps.dtype))
    return clean


def _levels(scheduler, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shares of latents and of noise at each timestep, both (b, 1, ...), in the dtype of `like`."""
    shape = (-1,) + (1,) * (like.ndim - 1)
    if prediction_type(scheduler) == "flow_prediction":
        share = (timesteps / scheduler.config.num_train_timesteps).to(like).view(shape)
        return 1 - share, share
    wide = torch.promote_types(like.dtype, torch.float32)  # in bfloat16 1 - ᾱ would lose most of its bits
    alpha = scheduler.alphas_cumprod.to(like.device, wide)[timesteps].view(shape)
    return alpha.sqrt().to(like.dtype), (1 - alpha).sqrt().to(like.dtype)


def diffusion_loss(prediction: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor, scheduler) -> Tensor:
    """Return L_diff of eq. 1 for the scheduler's prediction type.

    L_diff = E ‖ε - ε_θ(√ᾱ_t z_0 + √(1 - ᾱ_t) ε, t)‖² as a mean over all elements, with `prediction_target` in the place
    of ε. For velocities this is the error of the denoised latents divided by 1 - ᾱ_t, as diffusers trains CogVideoX.

    Args:
        prediction: ε_θ, the host's output, of the shape of `latents`.
        latents: z_0 in the VAE's normalised space, (b, ...).
        noise: ε, of the same shape.
        timesteps: t, (b,).
        scheduler: A scheduler of diffusers.

    Returns:
        A scalar, in float32 or wider.

    Raises:
        ValueError: If the shapes differ, or the scheduler's prediction type is not known.
    """
    if noise.shape != latents.shape:
        raise ValueError(
            f"noise has shape {tuple(noise.shape)}, but the latents have {tuple(latents.shape)}. Draw noise of the "
            "latents' shape."
        )
    if prediction.shape != latents.shape:
        raise ValueError(
            f"The host predicts {tuple(prediction.shape)} for latents of {tuple(latents.shape)}. Hosts that also take "
            "images, or predict variances, cannot be trained here."
        )
    wide = torch.promote_types(latents.dtype, torch.float32)
    target = prediction_target(scheduler, latents.to(wide), noise.to(wide), timesteps)
    return squared_error(prediction.to(wide), target)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error as a scalar of its own: that of `mse_loss` holds memory of its inputs' size."""
    return F.mse_loss(prediction, target, reduction="none").mean()


def route_targets(logits: Tensor, labels: Tensor, component_mask: Tensor | None = None) -> Tensor:
    """Return the labels that eq. 5 counts; the others become `IGNORED`. Arguments as in `route_loss`.

    The router cannot choose a component that the reference does not show, so tokens of that component are left out.
    Tokens of no component count only where the router has a background route.
    """
    routes = logits.shape[1]
    targets = labels.masked_fill(labels >= routes, IGNORED)
    if component_mask is not None:
        shown = F.pad(component_mask, (0, routes - component_mask.shape[1]), value=True)
        hidden = ~shown.gather(1, targets.clamp(min=0))
        targets = targets.masked_fill(hidden & (targets != IGNORED), IGNORED)
    return targets


def route_loss(logits: Tensor, labels: Tensor, component_mask: Tensor | None = None) -> Tensor:
    """Return L_route of eq. 5: the cross-entropy of the router's logits against component labels.

    L_route = - Σ_m y_m ⊙ log w_m, with w the softmax of the logits over m and y one-hot, as a mean over the tokens that
    have a label; 0 if none has.

    Args:
        logits: From `LocalRouter.route_logits`, (b, r, n).
        labels: (b, n), int64: 0 to m - 1 for a component, m for no component, `IGNORED` where unknown.
        component_mask: (b, m), bool; False where the reference does not show the component.

    Returns:
        A scalar, in float32 or wider.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check_shapes(logits, labels, component_mask)
    targets = route_targets(logits, labels, component_mask)
    wide = torch.promote_types(logits.dtype, torch.float32)
    total = F.cross_entropy(logits.to(wide), targets, ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=1)


def route_accuracy(logits: Tensor, labels: Tensor, component_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return how many labelled tokens have their component as the largest logit, and how many tokens are labelled.

    Arguments and errors as in `route_loss`.
    """
    _check_shapes(logits, labels, component_mask)
    targets = route_targets(logits, labels, component_mask)
    counted = targets != IGNORED
    return ((logits.argmax(dim=1) == targets) & counted).sum(), counted.sum()


def lavieid_loss(diffusion: Tensor, route: Tensor, lambda_diff: float = 1.0, lambda_route: float = 1.0) -> Tensor:
    """Return L_total of eq. 6: L_total = λ_diff L_diff + λ_route L_route.

    Args:
        diffusion: L_diff, from `diffusion_loss`.
        route: L_route, from `route_loss`.
        lambda_diff, lambda_route: Their weights.
    """
    return lambda_diff * diffusion + lambda_route * route


def _check_shapes(logits: Tensor, labels: Tensor, component_mask: Tensor | None) -> None:
    if logits.ndim != 3 or labels.shape != (logits.shape[0], logits.shape[2]):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} for logits of {tuple(logits.shape)}. Pass labels of "
            "(batch, tokens) for logits of (batch, routes, tokens)."
        )
    if component_mask is None:
        return
    batch, routes, _ = logits.shape
    if tuple(component_mask.shape) not in ((batch, routes), (batch, routes - 1)):
        raise ValueError(
            f"component_mask has shape {tuple(component_mask.shape)} for logits of {tuple(logits.shape)}. Pass "
            f"({batch}, {routes}), or ({batch}, {routes - 1}) where the last route is the background."
        )
