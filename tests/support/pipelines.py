"""Small pipelines of diffusers, with what their calls need."""

import diffusers
import numpy as np
import torch
from diffusers import ConsisIDTransformer3DModel
from PIL import Image
from support.small_cogvideox import small_components

SIZE = {"height": 64, "width": 96, "num_frames": 9}
IMAGE = Image.fromarray(np.linspace(0, 255, 64 * 96 * 3).reshape(64, 96, 3).astype(np.uint8))


def build(name="CogVideoXPipeline", **transformer):
    """A pipeline class and the inputs that its call needs besides the prompt."""
    cls, inputs = getattr(diffusers, name), dict(SIZE)
    if name in ("CogVideoXImageToVideoPipeline", "CogVideoXFunControlPipeline", "ConsisIDPipeline"):
        transformer["in_channels"] = 8
    components = small_components(**transformer)
    if name in ("CogVideoXImageToVideoPipeline", "ConsisIDPipeline"):
        inputs["image"] = IMAGE
    if name == "CogVideoXVideoToVideoPipeline":
        inputs |= {"video": [IMAGE] * 9, "strength": 0.8}
        del inputs["num_frames"]
    if name == "CogVideoXFunControlPipeline":
        inputs["control_video"] = [IMAGE] * 9
        del inputs["num_frames"]
    if name == "ConsisIDPipeline":
        config = {k: v for k, v in components["transformer"].config.items() if not k.startswith(("_", "patch_"))}
        config.pop("ofs_embed_dim")
        config["num_layers"] = 2  # it has one cross-attention for two blocks
        torch.manual_seed(0)
        components["transformer"] = ConsisIDTransformer3DModel(
            **config, patch_size=2, is_train_face=True, cross_attn_dim_head=8, cross_attn_num_heads=2, LFE_id_dim=12,
            LFE_vit_dim=16, LFE_depth=5, LFE_dim_head=8, LFE_num_heads=2, LFE_output_dim=42,
        ).eval()  # fmt: skip
        inputs["id_cond"] = torch.ones(1, 12)
        inputs["id_vit_hidden"] = [torch.ones(1, 4, 16)] * 5
    pipe = cls(**components)
    pipe.set_progress_bar_config(disable=True)
    return pipe, inputs


def generate(pipe, prompt="she walks", **inputs):
    """The frames of a short run of a CogVideoX pipeline."""
    settings = {"num_inference_steps": 2, "guidance_scale": 6.0, "max_sequence_length": 16, "output_type": "pt"}
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt, **{**SIZE, **settings, "generator": generator, **inputs}).frames
