"""The model card: what the adapters are, which base model they were trained on, how to use them, and how not to."""

import os
from collections.abc import Mapping

from diffusers import ModelMixin
from huggingface_hub import ModelCardData

_USE_ONE = """```python
from lavieid_adapters import {name}

adapter = {name}.from_pretrained("<this repo or folder>")
```"""

_USE_ALL = """```python
from lavieid_adapters import attach_lavieid

lavieid = attach_lavieid(pipe, "<this repo or folder>")
lavieid.set_identity("identity.safetensors")
video = pipe("She walks through a park in autumn.").frames[0]
```"""

_BODY = """
# LaVieID adapters

Adapters that make a video diffusion transformer keep one person's identity
([LaVieID](https://doi.org/10.1145/3746027.3754943)), for
the Python package lavieid-adapters.

- Base model: {base_model}
- Transformer block: {block_idx}
- Licence: {license}

## What is in here

| adapter | parameters | dimensions |
| --- | --- | --- |
{rows}

## How to use

{use}
{training}
## Responsible use

The adapters put a real person's face into generated video. Use them only with that person's consent, label what you
make as generated, and do not deceive, harass or impersonate with it. The base model and the face recognizer that made
the identity have licences of their own, often non-commercial; they hold here too.
"""


def model_card(
    adapters: Mapping[str, ModelMixin],
    license: str,
    base_model: str | None = None,
    record: dict | None = None,
    training: Mapping | None = None,
) -> str:
    """The card's text, front matter included.

    Args:
        adapters: The adapters by the names under which they are saved.
        license: An identifier of the Hub's licence list.
        base_model: The model that the adapters were trained on, a Hub id or a path.
        record: For a checkpoint of all adapters: what else it must remember, kept in the front matter.
        training: How they were trained: plain types by name.
    """
    data = ModelCardData(
        base_model=base_model if base_model and _is_hub_id(base_model) else None,
        library_name="lavieid-adapters",
        license=license,
        pipeline_tag="text-to-video",
        tags=["lavieid", "adapter", "identity", "video"],
        lavieid=record,
    )
    rows = [
        f"| `{name}` | {adapter.num_parameters() / 1e6:,.1f} M | " + settings(adapter) + " |"
        for name, adapter in adapters.items()
    ]
    body = _BODY.format(
        base_model=base_model or "not recorded",
        block_idx=record["block_idx"] if record else "not recorded",
        license=license,
        rows="\n".join(rows),
        use=_USE_ALL if record else _USE_ONE.format(name=next(iter(adapters))),
        training=_training(training) if training else "",
    )
    return f"---\n{data.to_yaml()}\n---\n{body}"


def _training(record: Mapping) -> str:
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in record.items())
    return f"\n## Training\n\n| | |\n| --- | --- |\n{rows}\n"


def settings(adapter: ModelMixin) -> str:
    """An adapter's config on one line."""
    return ", ".join(f"{k} {v}" for k, v in adapter.config.items() if not k.startswith("_"))


def _is_hub_id(name: str) -> bool:
    """Whether the Hub would take a base model of this name: a path is none of its business."""
    return name.count("/") == 1 and not name.startswith(("/", ".", "~")) and not os.path.exists(name)
