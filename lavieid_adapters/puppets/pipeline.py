"""The small CogVideoX that was trained in the drawn world, with the adapters that were trained on it.

A file of its own, since the judges and the readers of photos ask for the weights without loading a pipeline.
"""

import os
from pathlib import Path

import torch
from diffusers import CogVideoXPipeline

from .words import WordTokenizer

WEIGHTS = Path(__file__).parent / "weights"


def weights_folder(folder: str | os.PathLike | None = None) -> Path:
    """Find the folder of the drawn world's trained weights: a pipeline with `lavieid/`, `face/`, `vision/`, `judges/`.

    Args:
        folder: Another one than the package's.

    Raises:
        FileNotFoundError: If there is no pipeline in it.
    """
    found = WEIGHTS if folder is None else Path(folder)
    if not (found / "model_index.json").is_file():
        remedy = "Give the folder of a pipeline" if folder else "Install the package from a complete wheel or checkout"
        raise FileNotFoundError(f"The drawn world's weights are missing, '{found / 'model_index.json'}'. {remedy}.")
    return found


def load_pipeline(
    device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, folder: str | os.PathLike | None = None
) -> CogVideoXPipeline:
    """Load a text-to-video pipeline of drawn people, 33 frames of 96 × 96; `attach_lavieid` finds its adapters.

    Args:
        device: Where it works.
        dtype: In which it computes; the weights are kept in float16.
        folder: Another folder of weights than the package's. Whatever it is, photos are read by the package's networks,
            `face/` and `vision/`.

    Returns:
        The pipeline. Its prompts are those of `caption`.

    Raises:
        FileNotFoundError: If the weights are not there.
    """
    folder = weights_folder(folder)
    # Any other tokenizer would pad to CogVideoX's 226 tokens, of which this transformer has seen none.
    tokenizer = WordTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    pipe = CogVideoXPipeline.from_pretrained(folder, tokenizer=tokenizer, dtype=dtype, local_files_only=True)
    return pipe.to(device)
