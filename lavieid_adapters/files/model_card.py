"""The model card: what the adapters are, which base model they were trained on, how to use them, and how not to."""

import os
from collections.abc import Mapping
from typing import Any

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
    contents: Mapping[str, tuple[int, Mapping[str, Any]]],
    license: str,
    base_model: str | None = None,
    record: dict | None = None,
    training: Mapping | None = None,
) -> str:
    """Return the card's text, front matter included.

    Args:
        contents: Number of parameters and config of each adapter, by the name under which it is saved; by its class's
            name for an adapter that is saved alone.
        license: An identifier of the Hub's licence list.
        base_model: The model that the adapters were trained on, a Hub id or a path.
        record: For a checkpoint of all adapters: "block_idx" and whatever else it must remember. It is stored in the
            front matter.
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
        f"| `{name}` | {parameters / 1e6:,.1f} M | {settings_line(config)} |"
        for name, (parameters, config) in contents.items()
    ]
    body = _BODY.format(
        base_model=base_model or "not recorded",
        block_idx=record["block_idx"] if record else "not recorded",
        license=license,
        rows="\n".join(rows),
        use=_USE_ALL if record else _USE_ONE.format(name=next(iter(contents))),
        training=_training(training) if training else "",
    )
    return f"---\n{data.to_yaml()}\n---\n{body}"


def _training(record: Mapping) -> str:
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in record.items())
    return f"\n## Training\n\n| | |\n| --- | --- |\n{rows}\n"


def settings_line(config: Mapping[str, Any]) -> str:
    """Return a config on one line, without the names that begin with "_"."""
    return ", ".join(f"{name} {value}" for name, value in config.items() if not name.startswith("_"))


def _is_hub_id(name: str) -> bool:
    """Return whether the Hub would take a base model of this name: it takes no path."""
    return name.count("/") == 1 and not name.startswith(("/", ".", "~")) and not os.path.exists(name)
