"""The settings of a training run: one dataclass, read from a YAML file and checked before anything is loaded."""

import difflib
import math
import os
import types
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from diffusers.optimization import SchedulerType

from ..models.facial_encoder import LocalFacialEncoder
from ..models.local_router import LocalRouter
from ..models.tam import TAM

# Settings that a run may be continued with in another way: they change how fast it is, what is seen of it, and when it
# ends, but no weight, as long as the global batch stays.
FREE = {
    "output", "steps", "gradient_accumulation", "checkpointing", "memory_gib", "compile", "num_workers",
    "checkpoint_every", "keep_last", "max_bad_steps", "validate_every", "validation", "validation_steps",
    "guidance_scale", "log_every", "tracker",
}  # fmt: skip


@dataclass(frozen=True)
class TrainingConfig:
    """A training run. The defaults are the paper's (section 4.1) where it gives any.

    Attributes:
        base: Hub id, or folder, of the pipeline whose transformer the adapters are for; it stays frozen.
        shards: Folder that `lavieid prepare` wrote.
        output: Folder of the run. A run that is in it already is continued, if its settings are these.
        stage: "router" trains the router and the encoder by eq. 6; "tam" trains TAM on latents that the frozen host,
            with the router of `adapters` if there is one, has denoised; "both" does both in each step.
        adapters: Hub repo or folder of adapters to start from; those that are missing start untrained.
        router, encoder, tam: Constructor arguments of fresh adapters that differ from the sizes for the base model.
        block_idx: The block that the router follows.
        vision_model: Hub repo or folder of the ViT, if it is not where the encoder's config says.
        steps: Steps of the optimizer.
        route_warmup_steps: How many of them, at the start, minimise eq. 5 alone; they run the host up to the router's
            block only, and cost a fraction of a step.
        batch_size: Samples of one forward on one GPU.
        gradient_accumulation: Forwards a step on one GPU. The global batch is this × `batch_size` × GPUs.
        learning_rate: Of AdamW.
        lr_scheduler: Its course, by diffusers' names: "constant", "constant_with_warmup", "linear", "cosine", ...
        lr_warmup_steps: Steps over which it rises, where the course has such.
        adam_betas, weight_decay: Of AdamW.
        max_grad_norm: Gradients are scaled down to this norm.
        null_prompt: Share of samples whose prompt is replaced by the empty one, for guidance.
        lambda_diff, lambda_route: Weights of eq. 6; in the drawn world 10 and 1 gave more likeness than the
            paper's 1 and 1.
        label_threshold: Share of a video token that a component must cover for the token to be labelled with it.
        tam_max_noise: TAM learns from the part of the timesteps below this fraction, 0 to 1: above, one step of
            denoising leaves too little to correct.
        tam_denoising_steps: How many times stage "tam" runs the host to denoise what TAM then corrects. What one step
            gives, the mean of what a clip may have been, is its own best correction; from several on there is more
            to learn.
        tam_guidance_scale: Guidance of these steps, for which each takes two forwards; 1 for none.
        dtype: In which the host computes, "bfloat16" or "float32"; adapters are kept in float32.
        host_storage: "fp8" stores the host's weights in 8 bits and casts them layer by layer, for small cards; None
            leaves them in `dtype`.
        checkpointing: How many of the host's blocks are computed again in the backward pass to save memory: "auto" as
            few as the memory at hand allows, "all", or a number.
        memory_gib: GPU memory that the run may take, in GiB; all there is if None.
        compile: Compile the blocks behind the router's; on a GPU, and not with `host_storage`.
        lora_rank: Rank of a LoRA that is trained with the router; 0 for none.
        lora_alpha: Its alpha; the rank if None.
        lora_targets: Names of the host's layers that get it.
        seed: Of the fresh adapters, the order of the samples, and their noise.
        num_workers: Processes that read samples; 0 reads in the training process.
        checkpoint_every: Steps between checkpoints.
        keep_last: Checkpoints that are kept.
        max_bad_steps: After so many steps in a row whose loss or gradient is not finite the run stops.
        validate_every: Steps between validations, which take as long as about 90 steps; 0 for none.
        validation: What is generated then, as mappings of "reference" (a photo) and "prompt"; the first two samples
            of the shards if empty.
        validation_steps: Denoising steps of it.
        guidance_scale: Guidance of it.
        log_every: Steps between entries of the log.
        tracker: Where logs go besides the terminal: "tensorboard", "wandb" or None.
    """

    base: str
    shards: str
    output: str
    stage: Literal["router", "tam", "both"] = "router"
    adapters: str | None = None
    router: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    tam: dict[str, Any] = field(default_factory=dict)
    block_idx: int = 0
    vision_model: str | None = None
    steps: int = 10_000
    route_warmup_steps: int = 0
    batch_size: int = 1
    gradient_accumulation: int = 1
    learning_rate: float = 3e-6
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 0
    adam_betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    null_prompt: float = 0.1
    lambda_diff: float = 1.0
    lambda_route: float = 1.0
    label_threshold: float = 0.5
    tam_max_noise: float = 0.5
    tam_denoising_steps: int = 1
    tam_guidance_scale: float = 1.0
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    host_storage: Literal["fp8"] | None = None
    checkpointing: Literal["auto", "all"] | int = "auto"
    memory_gib: float | None = None
    compile: bool = True
    lora_rank: int = 0
    lora_alpha: float | None = None
    lora_targets: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])
    seed: int = 0
    num_workers: int = 4
    checkpoint_every: int = 500
    keep_last: int = 3
    max_bad_steps: int = 10
    validate_every: int = 1000
    validation: list[dict[str, str]] = field(default_factory=list)
    validation_steps: int = 50
    guidance_scale: float = 6.0
    log_every: int = 10
    tracker: Literal["tensorboard", "wandb"] | None = "tensorboard"

    def __post_init__(self):
        for name, value in vars(self).items():
            self._check(name, not isinstance(value, float) or math.isfinite(value), "a finite number")
        for name in ("steps", "batch_size", "gradient_accumulation", "checkpoint_every", "keep_last", "max_bad_steps",
                     "log_every", "validation_steps", "tam_denoising_steps", "tam_guidance_scale"):  # fmt: skip
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("route_warmup_steps", "lr_warmup_steps", "lora_rank", "num_workers", "validate_every", "seed",
                     "weight_decay", "lambda_diff", "lambda_route"):  # fmt: skip
            self._check(name, getattr(self, name) >= 0, "0 or more")
        for name in ("learning_rate", "max_grad_norm"):
            self._check(name, getattr(self, name) > 0, "greater than 0")
        for name in ("null_prompt", "label_threshold", "tam_max_noise"):
            self._check(name, 0 <= getattr(self, name) <= 1, "within 0 to 1")
        for name in ("memory_gib", "lora_alpha"):
            self._check(name, getattr(self, name) is None or getattr(self, name) > 0, "greater than 0, or null")
        self._check("adam_betas", all(0 <= beta < 1 for beta in self.adam_betas), "0 or more, and less than 1")
        courses = [c.value for c in SchedulerType if c is not SchedulerType.PIECEWISE_CONSTANT]  # which needs rules
        self._check("lr_scheduler", self.lr_scheduler in courses, f"one of {', '.join(courses)}")
        counted = isinstance(self.checkpointing, str) or self.checkpointing >= 0
        self._check("checkpointing", counted, "'auto', 'all' or a number of blocks")
        self._check("tam_max_noise", self.stage == "router" or self.tam_max_noise > 0, "greater than 0 to train TAM")
        for entry in self.validation:
            self._check(
                "validation", set(entry) == {"reference", "prompt"}, "a list of {reference: photo, prompt: text}"
            )
        if self.stage == "tam" and (self.route_warmup_steps or self.lora_rank):
            raise ValueError("stage 'tam' trains TAM alone: leave route_warmup_steps and lora_rank at 0.")
        if self.stage != "tam" and (self.tam_denoising_steps, self.tam_guidance_scale) != (1, 1):
            raise ValueError(
                f"stage {self.stage!r} denoises once and without guidance: leave tam_denoising_steps and "
                "tam_guidance_scale at 1, or train TAM by stage 'tam'."
            )
        for name, cls in (("router", LocalRouter), ("encoder", LocalFacialEncoder), ("tam", TAM)):
            _check_names(getattr(self, name), cls._get_init_keys(cls) - {"self"}, f"{name}: {cls.__name__}'s arguments")

    def _check(self, name: str, right: bool, expected: str) -> None:
        if not right:
            raise ValueError(f"{name} is {getattr(self, name)!r}, but must be {expected}.")

    @classmethod
    def load(cls, path: str | os.PathLike, overrides: Sequence[str] = ()) -> "TrainingConfig":
        """Read a YAML file; "name=value" overrides take the place of its entries.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If a field is unknown, missing or of another type; names the nearest known field.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"There is no config file '{path}': examples/train_cogvideox.yaml is one to start from."
            )
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"'{path}' is not YAML: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"'{path}' is a {type(values).__name__}, but must map field names to values.")
        for override in overrides:
            name, equals, value = override.partition("=")
            if not equals:
                raise ValueError(f"'{override}' is no override: write name=value.")
            try:
                values[name] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise ValueError(f"'{override}' is not YAML: {error}") from error
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: dict) -> "TrainingConfig":
        """The config of a mapping; errors as in `load`."""
        hints = get_type_hints(cls)
        _check_names(values, hints, "the config's fields")
        missing = [f.name for f in fields(cls) if f.name in ("base", "shards", "output") and f.name not in values]
        if missing:
            raise ValueError(f"The config lacks {', '.join(missing)}: base model, prepared clips and output folder.")
        return cls(**{name: _converted(name, value, hints[name]) for name, value in values.items()})

    def recipe(self) -> dict:
        """What the weights depend on and no adapter's own config tells, as plain types: for the card."""
        left_out = {*FREE, "base", "shards", "adapters", "vision_model", "router", "encoder", "tam", "block_idx"}
        left_out |= set() if self.lora_rank else {"lora_rank", "lora_alpha", "lora_targets"}
        left_out |= {"tam_max_noise"} if self.stage == "router" else set()
        left_out |= {"tam_denoising_steps", "tam_guidance_scale"} if self.stage != "tam" else set()
        return {k: v for k, v in self.as_dict().items() if k not in left_out and v is not None}

    def as_dict(self) -> dict:
        """All fields, as plain types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def _check_names(values, known, where: str) -> None:
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0)
            raise ValueError(f"{name!r} is none of {where}. Did you mean {near[0]!r}?")


def _converted(name: str, value, hint):
    """A value as its field's type; whole numbers may stand for others, and YAML reads 3e-6 as text."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        kind, arguments = get_origin(option) or option, get_args(option)
        if kind is Literal and value in arguments:
            return value
        if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                return float(value)
            except ValueError:
                continue
        if kind is tuple and isinstance(value, list | tuple) and len(value) == len(arguments):
            return tuple(_converted(name, v, a) for v, a in zip(value, arguments, strict=True))
        if kind is list and isinstance(value, list):
            return [_converted(name, v, arguments[0]) for v in value]
        if kind is dict and isinstance(value, dict):
            return {_converted(name, k, arguments[0]): _converted(name, v, arguments[1]) for k, v in value.items()}
        if kind is Any or (isinstance(kind, type) and kind not in (list, dict, tuple) and type(value) is kind):
            return value
    described = str(hint).replace("typing.", "").replace("<class '", "").replace("'>", "")
    raise ValueError(f"{name} is {value!r}, but must be {described}.")
