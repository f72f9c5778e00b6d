"""Schedulers of every kind that training meets."""

from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

COGVIDEOX = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}


SCHEDULERS = {
    "epsilon": DDPMScheduler(),
    "epsilon, CogVideoX": CogVideoXDDIMScheduler(),
    "v_prediction": DDPMScheduler(prediction_type="v_prediction"),
    "v_prediction, CogVideoX-5B": CogVideoXDPMScheduler(snr_shift_scale=1.0, **COGVIDEOX),
    "v_prediction, CogVideoX-2B": CogVideoXDDIMScheduler(snr_shift_scale=3.0, **COGVIDEOX),
    "sample": DDPMScheduler(prediction_type="sample"),
    "flow_prediction": FlowMatchEulerDiscreteScheduler(),
    "flow_prediction, shifted": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow_prediction, UniPC": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
}
