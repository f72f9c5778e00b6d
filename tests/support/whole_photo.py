"""A face processor that finds no face and takes the whole photo as one: no detector, and models without a download."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from lavieid_adapters import FACIAL_COMPONENTS, FaceProcessor, LocalFacialEncoder


class Pixels:
    """A recognizer and a parser without weights."""

    def embed(self, image: np.ndarray, landmarks) -> np.ndarray:
        """Return 512 of the image's brightnesses as an identity embedding."""
        return np.asarray(Image.fromarray(image).convert("L").resize((32, 16)), np.float32).ravel() / 255

    def parse(self, aligned: np.ndarray) -> np.ndarray:
        """Return the component map of a face from the front, whatever the picture shows."""
        component_map = Image.new("L", (512, 512))
        draw = ImageDraw.Draw(component_map)
        for component, box in (
            ("hair", (60, 0, 452, 400)), ("skin", (110, 110, 402, 500)), ("nose", (220, 230, 292, 330)),
            ("mouth", (195, 350, 317, 400)), ("eyes", (165, 225, 222, 255)), ("eyes", (290, 225, 347, 255)),
            ("eyebrows", (155, 195, 230, 212)), ("eyebrows", (282, 195, 357, 212)),
        ):  # fmt: skip
            draw.ellipse(box, fill=1 + FACIAL_COMPONENTS.index(component))
        return np.asarray(component_map)


def whole_photo_processor(encoder: LocalFacialEncoder, folder: str | Path) -> FaceProcessor:
    """Return a processor for an encoder of `id_dim` 520 and `vit_dim` 16; its small ViT is saved to `folder`."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=6, num_attention_heads=2, image_size=56, patch_size=14,
        projection_dim=8,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    processor = {"image_processor_type": "CLIPImageProcessor", "crop_size": 56, "size": {"shortest_edge": 56}}
    Path(folder, "preprocessor_config.json").write_text(json.dumps(processor))
    parts = {"detectors": (), "recognizer": Pixels(), "parser": Pixels()}
    return FaceProcessor.for_encoder(encoder, vision_model=folder, **parts)
