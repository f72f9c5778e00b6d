"""Eq. 1's forward process, by what a scheduler of diffusers asks its host to predict."""

from collections.abc import Callable

import torch
from torch import Tensor


def prediction_type(scheduler) -> str:
    """What the host of a scheduler predicts: "epsilon", "v_prediction", "sample" or "flow_prediction".

    Raises:
        ValueError: If it is something else.
    """
    config = scheduler.config
    flow = type(scheduler).__name__.startswith("FlowMatch") or config.get("use_flow_sigmas", False)
    kind = "flow_prediction" if flow else config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction", "sample", "flow_prediction"):
        raise ValueError(
            f"{type(scheduler).__name__} has prediction_type {kind!r}, but training knows epsilon, v_prediction, "
            "sample and flow_prediction."
        )
    return kind


def draw_timesteps(scheduler, draws: Tensor) -> Tensor:
    """Timesteps for uniform numbers: whole ones, or for flows any.

    Args:
        scheduler: A scheduler of diffusers.
        draws: (b,), 0 inclusive to 1 exclusive.

    Returns:
        (b,), int64, or float32 for flows.
    """
    timesteps = draws * scheduler.config.num_train_timesteps
    return timesteps.float() if prediction_type(scheduler) == "flow_prediction" else timesteps.long()


def add_noise(scheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Latents with the noise of their timestep.

    Args:
        scheduler: A scheduler of diffusers.
        latents, noise: (b, ...).
        timesteps: (b,), as `draw_timesteps` gives them.
    """
    signal, share = _levels(scheduler, latents, timesteps)
    return signal * latents + share * noise


def prediction_target(scheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the host should predict: the noise, the velocity, the flow or the latents. Arguments as in `add_noise`."""
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
    """The clean latents that a prediction means, in one step.

    Args:
        scheduler: A scheduler of diffusers.
        prediction: The host's output, (b, ...).
        noisy: What the host was given, of the same shape.
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
    """The clean latents that a host comes to in some even steps of DDIM without new noise; for flows these are Euler's.

    Args:
        scheduler: A scheduler of diffusers.
        predict: From latents (b, ...) and timesteps (b,) to the host's output.
        noisy: (b, ...).
        timesteps: (b,), from which the steps lead down to the clean latents.
        steps: How often the host is asked; once is `denoised`.
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
    """How much of the latents and of the noise there is at each timestep, both (b, 1, ...), as `like` in dtype."""
    shape = (-1,) + (1,) * (like.ndim - 1)
    if prediction_type(scheduler) == "flow_prediction":
        share = (timesteps / scheduler.config.num_train_timesteps).to(like).view(shape)
        return 1 - share, share
    wide = torch.promote_types(like.dtype, torch.float32)
    alpha = scheduler.alphas_cumprod.to(like.device, wide)[timesteps].view(shape)
    return alpha.sqrt().to(like.dtype), (1 - alpha).sqrt().to(like.dtype)
