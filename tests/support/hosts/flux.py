"""Flux, an image transformer that no row describes, with blocks that diffusers' registry has."""

import diffusers
import torch
from torch import nn


def flux() -> nn.Module:
    """Flux, whose blocks give the text's stream first; 5 text tokens and 12 of the picture."""
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    ).eval()  # fmt: skip


def flux_inputs() -> dict:
    """Keywords for a forward of `flux()`."""
    return {
        "hidden_states": torch.randn(1, 12, 4), "encoder_hidden_states": torch.randn(1, 5, 32),
        "pooled_projections": torch.randn(1, 32), "timestep": torch.tensor([0.5]), "img_ids": torch.zeros(12, 3),
        "txt_ids": torch.zeros(5, 3),
    }  # fmt: skip
