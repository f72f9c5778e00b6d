"""The settings of a training run: one dataclass, read from a YAML file and checked before anything is loaded.

Sizes of adapters are checked as far as they do not depend on the base model, whose width fills in what is not given.
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

import torch
import yaml
from diffusers.optimization import SchedulerType

from ..models.adapter import Adapter
from ..models.facial_encoder import LocalFacialEncoder
from ..models.local_router import LocalRouter
from ..models.tam import TAM
from .options import checked, default_of, option

# Piecewise constant needs rules of its own.
_COURSES = tuple(course.value for course in SchedulerType if course is not SchedulerType.PIECEWISE_CONSTANT)


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training run. The defaults are the paper's (section 4.1) where it gives any.

    Each option's help and bounds are in its field's metadata; `lavieid train --help` and the README of this folder
    list them.

    Raises:
        ValueError: If a value is of another type, out of bounds or not finite, or if two do not go together.
    """

    base: str = option("Hub id or folder of the pipeline whose transformer the adapters are for. It stays frozen.")
    shards: str = option("Folder that `lavieid prepare` wrote.")
    output: str = option("Folder of the run. A run in it with the same settings is continued.", free=True)
    stage: Literal["router", "tam", "both"] = option(
        "`router` trains the router and the encoder by eq. 6. `tam` trains TAM on latents that the frozen host has "
        "denoised, with the router of `adapters` if there is one. `both` does both in each step.",
        "router",
    )
    adapters: str | None = option(
        "Hub repo or folder of adapters to start from. Those that are missing start untrained.", None
    )
    router: dict[str, Any] = option("Arguments of a fresh `LocalRouter` that differ from the base model's sizes.", {})
    encoder: dict[str, Any] = option("The same of a fresh `LocalFacialEncoder`.", {})
    tam: dict[str, Any] = option("The same of a fresh `TAM`.", {})
    block_idx: int = option("The block that the router follows, negative from the last.", 0)
    vision_model: str | None = option("Hub repo or folder of the ViT, if not where the encoder's config says.", None)
    steps: int = option("Steps of the optimizer.", 10_000, ge=1, free=True)
    route_warmup_steps: int = option(
        "Number of first steps that minimise eq. 5 alone. They run the host only up to the router's block, at a "
        "fraction of the price of a step.",
        0,
        ge=0,
    )
    batch_size: int = option("Samples per forward on one GPU.", 1, ge=1)
    gradient_accumulation: int = option(
        "Forwards per step on one GPU. The global batch is this × `batch_size` × GPUs.", 1, ge=1, free=True
    )
    learning_rate: float = option("Learning rate of AdamW.", 3e-6, gt=0)
    lr_scheduler: str = option("Schedule of the learning rate, by diffusers' names.", "constant", choices=_COURSES)
    lr_warmup_steps: int = option("Steps over which the rate rises, where the schedule has a warm-up.", 0, ge=0)
    adam_betas: tuple[float, float] = option("Betas of AdamW.", (0.9, 0.999), ge=0, lt=1)
    weight_decay: float = option("Weight decay of AdamW.", 0.01, ge=0)
    max_grad_norm: float = option("Gradients are scaled down to this norm.", 1.0, gt=0)
    null_prompt: float = option(
        "Share of samples whose prompt is replaced by the empty one, for guidance.", 0.1, ge=0, le=1
    )
    lambda_diff: float = option(
        "λ_diff of eq. 6. In our ablation 10, with `lambda_route` 1, gave more likeness than the paper's 1.",
        1.0,
        ge=0,
    )
    lambda_route: float = option("λ_route of eq. 6.", 1.0, ge=0)
    label_threshold: float = option(
        "Share of a video token that a component must cover for the token to have its label.", 0.5, ge=0, le=1
    )
    tam_max_noise: float = option(
        "TAM learns from timesteps below this share of all. Above it one step of denoising leaves too little to "
        "correct.",
        0.5,
        ge=0,
        le=1,
    )
    tam_denoising_steps: int = option(
        "Stage `tam`: steps in which the host denoises what TAM then corrects. One step gives the mean of all clips "
        "that are possible, which is already its own best correction; several leave more to learn.",
        1,
        ge=1,
    )
    tam_guidance_scale: float = option(
        "Stage `tam`: guidance scale of these steps, which then take two forwards each. 1 is none.", 1.0, ge=1
    )
    dtype: Literal["bfloat16", "float32"] = option(
        "Dtype in which the host computes. Adapters are always kept in float32.", "bfloat16"
    )
    host_storage: Literal["fp8"] | None = option(
        "`fp8` stores the host's weights in 8 bits and casts them layer by layer, for small cards. null leaves them in "
        "`dtype`.",
        None,
    )
    checkpointing: Literal["auto", "all"] | int = option(
        "How many of the host's blocks are computed again in the backward pass to save memory. `auto` is as few as the "
        "memory allows.",
        "auto",
        ge=0,
        free=True,
    )
    memory_gib: float | None = option(
        "GPU memory that the run may take, in GiB. null takes all there is.", None, gt=0, free=True
    )
    compile: bool = option(
        "Compile the blocks behind the router's; on a GPU, and not with `host_storage`.", True, free=True
    )
    lora_rank: int = option("Rank of a LoRA of the host that is trained with the router. 0 is none.", 0, ge=0)
    lora_alpha: float | None = option("Alpha of the LoRA. null takes the rank.", None, gt=0)
    lora_targets: list[str] = option(
        "Names of the host's layers that get the LoRA.", ["to_q", "to_k", "to_v", "to_out.0"]
    )
    seed: int = option(
        "Seed of fresh adapters, of the order of the samples, and of their noise.", 0, ge=0, le=2**32 - 1
    )
    num_workers: int = option("Processes that read samples. 0 reads in the training process.", 4, ge=0, free=True)
    checkpoint_every: int = option("Steps between checkpoints.", 500, ge=1, free=True)
    keep_last: int = option("How many of the last checkpoints are kept.", 3, ge=1, free=True)
    max_bad_steps: int = option(
        "The run stops after so many steps in a row whose loss or gradient is not finite.", 10, ge=1, free=True
    )
    validate_every: int = option(
        "Steps between validations, each of which takes as long as about 90 steps. 0 is none.", 1000, ge=0, free=True
    )
    validation: list[dict[str, str]] = option(
        "What is generated then: mappings of `reference`, a photo, and `prompt`. The first two samples of the shards "
        "if empty.",
        [],
        free=True,
    )
    validation_steps: int = option("Denoising steps of a validation.", 50, ge=1, free=True)
    guidance_scale: float = option("Guidance scale of a validation.", 6.0, free=True)
    log_every: int = option("Steps between entries of the log.", 10, ge=1, free=True)
    tracker: Literal["tensorboard", "wandb"] | None = option(
        "Where the log goes besides the terminal.", "tensorboard", free=True
    )

    def __post_init__(self):
        hints = get_type_hints(type(self))
        for field in fields(self):
            object.__setattr__(self, field.name, checked(field, hints[field.name], getattr(self, field.name)))
        for entry in self.validation:
            if set(entry) != {"reference", "prompt"}:
                raise ValueError(
                    f"validation is {self.validation!r}, but must be a list of {{reference: photo, prompt: text}}."
                )
        if self.stage != "router" and self.tam_max_noise == 0:
            raise ValueError(f"tam_max_noise is 0.0, but must be greater than 0 to train TAM by stage {self.stage!r}.")
        if self.stage == "tam" and (self.route_warmup_steps or self.lora_rank):
            raise ValueError(
                f"stage 'tam' trains TAM alone, but route_warmup_steps is {self.route_warmup_steps} and lora_rank is "
                f"{self.lora_rank}. Set both to 0."
            )
        if self.stage != "tam" and (self.tam_denoising_steps, self.tam_guidance_scale) != (1, 1):
            raise ValueError(
                f"stage {self.stage!r} denoises once and without guidance, but tam_denoising_steps is "
                f"{self.tam_denoising_steps} and tam_guidance_scale is {self.tam_guidance_scale:g}. Set both to 1, or "
                "train TAM by stage 'tam'."
            )
        if self.lora_rank and not self.lora_targets:
            raise ValueError(f"lora_rank is {self.lora_rank}, but lora_targets is empty. Name the layers that get it.")
        for name, cls in (("router", LocalRouter), ("encoder", LocalFacialEncoder), ("tam", TAM)):
            _check_names(getattr(self, name), cls._get_init_keys(cls) - {"self"}, f"{name}: {cls.__name__}'s arguments")
            _check_sizes(name, cls, getattr(self, name))

    @classmethod
    def load(cls, path: str | os.PathLike, overrides: Sequence[str] = ()) -> "TrainingConfig":
        """Read a YAML file; "name=value" overrides take the place of its entries.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If an option is unknown, missing or wrong; names the nearest known option.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"There is no config file '{path}'. Start from examples/training/cogvideox.yaml, for example."
            )
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"'{path}' is not YAML: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"'{path}' is a {type(values).__name__}, but must map names of options to values.")
        for override in overrides:
            name, equals, value = override.partition("=")
            if not equals:
                raise ValueError(f"'{override}' is no override. Write name=value.")
            try:
                values[name] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise ValueError(f"'{override}' is not YAML: {error}") from error
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: dict) -> "TrainingConfig":
        """Return the config of a mapping; errors as in `load`."""
        _check_names(values, [field.name for field in fields(cls)], "the config's options")
        missing = [field.name for field in fields(cls) if default_of(field) is MISSING and field.name not in values]
        if missing:
            raise ValueError(
                f"The config lacks {', '.join(missing)}. Name the base model, the prepared clips and the output folder."
            )
        return cls(**values)

    @classmethod
    def defaults(cls) -> dict:
        """Return the default of each option that has one, as plain types."""
        return _plain({field.name: default_of(field) for field in fields(cls) if default_of(field) is not MISSING})

    def recipe(self) -> dict:
        """Return what the weights depend on and no adapter's own config holds, as plain types: for the card."""
        left_out = {*FREE, "base", "shards", "adapters", "vision_model", "router", "encoder", "tam", "block_idx"}
        left_out |= set() if self.lora_rank else {"lora_rank", "lora_alpha", "lora_targets"}
        left_out |= {"tam_max_noise"} if self.stage == "router" else set()
        left_out |= {"tam_denoising_steps", "tam_guidance_scale"} if self.stage != "tam" else set()
        return {k: v for k, v in self.as_dict().items() if k not in left_out and v is not None}

    def as_dict(self) -> dict:
        """Return all options, as plain types."""
        return _plain(asdict(self))


# Options that a continued run may change.
FREE = frozenset(field.name for field in fields(TrainingConfig) if field.metadata["free"])


def _plain(values: dict) -> dict:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _check_sizes(name: str, cls: type[Adapter], sizes: dict[str, Any]) -> None:
    """Build an adapter on the meta device, with a width that any heads divide where the base model will say it."""
    if not sizes:
        return
    if cls is TAM:
        heads = sizes.get("num_heads", 1)
        fitting = 2 * heads if isinstance(heads, int) and heads > 0 else 2
        sizes = {"dim": fitting, "num_heads": heads, **sizes}
    try:
        with torch.device("meta"):
            cls(**sizes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error


def _check_names(values: Iterable, known: Iterable[str], where: str) -> None:
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0)
            raise ValueError(f"{name!r} is none of {where}. Did you mean {near[0]!r}?")
