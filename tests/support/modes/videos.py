"""Pipelines of the two hosts at tiny sizes, and a router on each."""

import diffusers
import torch
from support import tiny
from support.hosts import wan_family
from support.pipelines import build
from support.tiny import noise
from torch import Tensor

from lavieid_adapters import attach_lavieid


def cogvideox_pipeline():
    return build("CogVideoXPipeline", max_text_seq_length=5, num_layers=2)[0]


def wan_pipeline():
    pipe, _ = wan_family.wan_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


PIPELINES = {"CogVideoX": cogvideox_pipeline, "Wan": wan_pipeline}


def embeddings(pipe, prompts: int = 1, negative: bool = True) -> dict[str, Tensor]:
    """Different prompts, and one negative prompt for all."""
    width = wan_family.TEXT_DIM if isinstance(pipe.transformer, diffusers.WanTransformer3DModel) else 32
    texts = {"prompt_embeds": torch.cat([noise(1, 5, width, seed=1 + i) for i in range(prompts)])}
    if negative:
        texts["negative_prompt_embeds"] = noise(1, 5, width, seed=99).expand(prompts, -1, -1)
    return texts


def generate(pipe, prompts: int = 1, negative: bool = True, **call) -> Tensor:
    """Latents, by default, of one video a prompt, whose noise is the same for each."""
    size = {"height": 64, "width": 96, "num_frames": 9}
    settings = {"num_inference_steps": 2, "guidance_scale": 6.0, "max_sequence_length": 5, "output_type": "latent"}
    count = prompts * call.get("num_videos_per_prompt", 1)
    generator = [torch.Generator().manual_seed(0) for _ in range(count)]
    generator = generator if count > 1 else generator[0]
    texts = {} if "prompt_embeds" in call else embeddings(pipe, prompts, negative)
    return pipe(**{**size, **settings, "generator": generator, **texts, **call}).frames


def put_on(pipe, seed: int = 0):
    """A router on a pipeline, which has no identity yet."""
    return attach_lavieid(pipe, {"router": tiny.router(seed)}).handle
