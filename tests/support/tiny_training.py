"""A training run at tiny size: a base, a ViT and shards on disk, a config, and runs in processes of their own."""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file
from support.tiny_clips import save_base
from support.tiny_face import write_clip
from support.tiny_shards import write_shards
from torch import Tensor

from lavieid_adapters.models.checkpoint import ADAPTERS
from lavieid_adapters.training.config import TrainingConfig
from lavieid_adapters.training.run_folder import LORA_WEIGHTS

WEIGHTS = "diffusion_pytorch_model.safetensors"
SIZES = {
    "router": {"token_dim": 32, "inner_dim": 64, "num_heads": 2, "tokens_per_component": 8},
    "encoder": {
        "id_dim": 24, "vit_dim": 16, "depth": 5, "head_dim": 8, "num_heads": 2, "tokens_per_component": 8,
        "token_dim": 32,
    },
    "tam": {"dim": 64, "num_layers": 2, "num_heads": 2, "chunks": 2},
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """What a run needs besides its settings; nobody changes it."""

    base: Path
    vision: Path
    shards: Path

    def settings(self, output: Path, stage: str = "router", **changed) -> dict:
        """A config's fields for a few fast steps in float32 without validation."""
        sizes = {"router": ("router", "encoder"), "tam": ("tam",), "both": ("router", "encoder", "tam")}[stage]
        return {
            "base": str(self.base),
            "shards": str(self.shards),
            "output": str(output),
            "stage": stage,
            **{name: SIZES[name] for name in sizes if "adapters" not in changed},
            "vision_model": str(self.vision),
            "steps": 4,
            "learning_rate": 3e-3,
            "dtype": "float32",
            "num_workers": 0,
            "validate_every": 0,
            "validation_steps": 2,
            "log_every": 1,
            "tracker": None,
            **changed,
        }

    def config(self, output: Path, stage: str = "router", **changed) -> TrainingConfig:
        """As `settings`."""
        return TrainingConfig.from_dict(self.settings(output, stage, **changed))


def write_world(folder: Path) -> World:
    """A small base, a ViT, and shards of four samples."""
    folder.mkdir()
    base = save_base(folder / "base")
    shards = write_shards(folder / "shards", hidden={1: {"hair": "a hat"}}, base=base)
    return World(base, write_clip(folder / "vision"), shards)


def write_config(path: Path, settings: Mapping) -> Path:
    """A config file."""
    path.write_text(yaml.safe_dump(dict(settings)))
    return path


def weights(folder: Path) -> dict[str, Tensor]:
    """All that a result or a checkpoint holds: adapters, LoRA, and of a checkpoint the optimizer's state."""
    files = [f"{name}/{WEIGHTS}" for name in ADAPTERS] + [LORA_WEIGHTS, "state.safetensors"]
    files = [file for file in files if (folder / file).is_file()]
    return {f"{Path(file).parent}/{key}": v for file in files for key, v in load_file(folder / file).items()}


def different(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """The names at which they differ, be it by a bit."""
    return sorted(k for k in one.keys() | other.keys() if k not in one or k not in other or not one[k].equal(other[k]))


def perturb(trainer) -> None:
    """Give the last projections of fresh adapters, which are zero, weights with which they act."""
    for name, last in (("router", "cross_attention.to_out"), ("tam", "to_latents")):
        if name in trainer.adapters:
            weight = trainer.adapters[name].get_submodule(last).weight
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(0))


class Process:
    """`lavieid train` in a process that has imported it already.

    Args:
        config: The config file.
        log: Takes what it prints.
        overrides: As on the command line.
        environment: Variables of its environment that differ.
        file_limit: Bytes beyond which no file can be written, as if the disk were full.
    """

    def __init__(
        self,
        config: Path,
        log: Path,
        *overrides: str,
        environment: Mapping[str, str] | None = None,
        file_limit: int | None = None,
    ):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["lavieid_adapters.training.trainer"])
        arguments = ["--config", str(config), *overrides], log, {**os.environ, **(environment or {})}, file_limit
        self._process, self._log = context.Process(target=_main, args=arguments), log
        self._process.start()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error) -> None:
        self._process.kill()
        self._process.join()

    def __bool__(self) -> bool:
        return self._process.is_alive()

    @property
    def output(self) -> str:
        return self._log.read_text() if self._log.is_file() else ""

    def send(self, number: int = signal.SIGKILL) -> None:
        """A signal."""
        os.kill(self._process.pid, number)

    def wait(self, seconds: float = 120) -> int:
        """Its exit status; negative for a signal that ended it."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, self.output
        return self._process.exitcode


def _main(arguments: list[str], log: Path, environment: dict[str, str], file_limit: int | None) -> None:
    os.environ.update(environment)
    with open(log, "a") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    from lavieid_adapters.cli.main import main

    torch.set_num_threads(1)
    status = main(["train", *arguments])
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)
