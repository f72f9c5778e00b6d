"""Tiny real transformers and pipelines of CogVideoX and ConsisID; as in `wan_family`."""

import functools

import torch
from support import tiny
from support.pipelines import build


def cogvideox():
    sizes = {"use_rotary_positional_embeddings": False, "sample_height": 8, "sample_width": 12, "sample_frames": 9}
    return tiny.transformer(**sizes), {**tiny.transformer_inputs(2), "return_dict": False}


def _pipeline(name: str):
    pipe, call = build(name)
    call |= {"prompt": "she walks", "num_inference_steps": 2, "guidance_scale": 6.0, "max_sequence_length": 16}
    return pipe, {**call, "output_type": "np"}


def consisid():
    model, inputs = _pipeline("ConsisIDPipeline")[0].transformer, cogvideox()[1]
    hidden_states = tiny.transformer_inputs(2, channels=8)["hidden_states"]
    states = {"id_cond": torch.ones(2, 12), "id_vit_hidden": [torch.ones(2, 4, 16)] * 5}
    return model, {**inputs, "hidden_states": hidden_states, **states}


cogvideox_pipeline = functools.partial(_pipeline, "CogVideoXPipeline")
cogvideox_image_pipeline = functools.partial(_pipeline, "CogVideoXImageToVideoPipeline")
cogvideox_video_pipeline = functools.partial(_pipeline, "CogVideoXVideoToVideoPipeline")
cogvideox_control_pipeline = functools.partial(_pipeline, "CogVideoXFunControlPipeline")
consisid_pipeline = functools.partial(_pipeline, "ConsisIDPipeline")
