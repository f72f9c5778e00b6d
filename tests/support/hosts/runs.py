"""Runs of pipelines of all families, and adapters that fit them."""

import warnings

import diffusers
import numpy as np
import torch
from support import tiny

from lavieid_adapters.hosts.host import token_width
from lavieid_adapters.hosts.host_table import find_host
from lavieid_adapters.hosts.pipeline import HostPipeline
from lavieid_adapters.hosts.pipeline_table import find_pipeline


def hosted(pipe) -> HostPipeline:
    """A pipeline of diffusers, seen through its description."""
    return HostPipeline(pipe, find_pipeline(pipe))


def generate(pipe, call: dict, **changes):
    """What a call gives first, as arrays."""
    modular = isinstance(pipe, diffusers.ModularPipeline)
    if modular and changes.get("output_type") == "latent" and not find_pipeline(pipe).denormalised:
        changes = {**changes, "output": "latents", "output_type": "np"}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = pipe(**{**call, "generator": torch.Generator().manual_seed(0), "return_dict": False, **changes})
    video = output[0] if isinstance(output, tuple) else getattr(output, "frames", output)
    return video


def same(one, other) -> bool:
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return np.array_equal(np.asarray(one), np.asarray(other))


def fitting(pipe) -> dict:
    """A router and a TAM that act, of the pipeline's sizes."""
    pipeline = hosted(pipe)
    transformer = pipeline.transformers[0]
    return {
        "router": tiny.router(dim=token_width(transformer, find_host(transformer))),
        "tam": tiny.tam(latent_channels=pipeline.latent_channels, layout=pipeline.description.layout),
    }
