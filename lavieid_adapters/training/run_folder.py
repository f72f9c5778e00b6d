"""The folder of a training run: its settings, its checkpoints, its result; each there as a whole, or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from diffusers import CogVideoXPipeline
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..files.atomic import lock, written_aside
from ..files.hub import upload
from ..models.adapter import Adapter
from ..models.checkpoint import ADAPTERS, Metadata, save_folder
from .config import FREE, TrainingConfig

LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
RECORD = "training.json"
_CONFIG, _LOCK, _STATE, _TENSORS = "config.yaml", ".lock", "state.json", "state.safetensors"


@dataclass(frozen=True)
class Result:
    """The result of a run so far.

    Attributes:
        adapters: By the names of their subfolders.
        metadata: For the card.
        record: How they were trained, for the card: plain types.
        lora: Weights of the host's LoRA as diffusers names them, with its config; None without one.
    """

    adapters: Mapping[str, Adapter]
    metadata: Metadata
    record: Mapping
    lora: tuple[Mapping[str, Tensor], Mapping] | None = None

    def save(self, folder: Path) -> None:
        """Write it to a folder that `attach_lavieid`, and for LoRA `pipe.load_lora_weights`, can load."""
        (folder / RECORD).unlink(missing_ok=True)  # and written last: without it nothing is taken for a result
        save_folder(self.adapters, folder, self.metadata, training=self.record)
        with written_aside(folder) as aside:
            if self.lora is not None:
                weights, config = self.lora
                CogVideoXPipeline.save_lora_weights(
                    aside, transformer_lora_layers=weights, transformer_lora_adapter_metadata=config
                )
        with written_aside(folder) as aside:
            (aside / RECORD).write_text(json.dumps(self.record, indent=2), encoding="utf-8")


class RunFolder:
    """The folder of a run: its `config.yaml`, `checkpoints/step-00000500/`, ..., and the result.

    Args:
        path: The folder; made by `claim`.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self._locked = None

    def claim(self, config: TrainingConfig) -> None:
        """Take the folder for this run, or check that it is this run's. A run without a checkpoint is replaced.

        Raises:
            ValueError: If it holds another run, or something else.
            OSError: If another process is at work in it.
        """
        mine, file = config.as_dict(), self.path / _CONFIG
        others = [p.name for p in self.path.iterdir() if p.name[0] != "."] if self.path.is_dir() else []
        if others and not file.is_file():
            raise ValueError(
                f"'{self.path}' holds {', '.join(sorted(others)[:4])}, and no run: set output to an empty or a new "
                "folder."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._locked = open(self.path / _LOCK, "ab")  # noqa: SIM115 for as long as the run lasts
        lock(self._locked, self.path)
        begun = self.latest() is not None
        if not begun and (self.path / RECORD).is_file():
            self.release()
            raise ValueError(
                f"'{self.path}' holds the result of a run whose checkpoints are gone: set output to another folder."
            )
        if begun and file.is_file():
            # What a later version has added was at its default.
            theirs = TrainingConfig.defaults() | yaml.safe_load(file.read_text(encoding="utf-8"))
            free = FREE if mine["lr_scheduler"].startswith("constant") else FREE - {"steps"}
            changed = [k for k in mine if k not in free and theirs[k] != mine[k]]
            if changed:
                self.release()
                listed = "; ".join(f"{k} was {theirs[k]!r} and is {mine[k]!r}" for k in changed)
                raise ValueError(
                    f"'{self.path}' holds another run ({listed}): set output to another folder, or the settings back."
                )
        with written_aside(self.path) as aside:
            (aside / _CONFIG).write_text(yaml.safe_dump(mine, sort_keys=False), encoding="utf-8")
        # Of a run that was killed while it wrote.
        for left in (*self.checkpoints.glob(".step-*"), *self.path.glob(f".{self.path.name}-*")):
            shutil.rmtree(left)

    def release(self) -> None:
        """Let another process claim it."""
        if self._locked is not None:
            self._locked.close()

    def latest(self) -> Path | None:
        """Return the last checkpoint; None if there is none yet."""
        return max(self.checkpoints.glob("step-*"), default=None)

    def save(self, step: int, result: Result, state: Mapping, tensors: Mapping[str, Tensor], keep_last: int) -> Path:
        """Write a checkpoint aside, rename it, and delete the oldest beyond `keep_last`.

        Args:
            step: Steps that are done.
            result, state, tensors: Adapters, what is plain of the rest, and its tensors.
            keep_last: Checkpoints that are kept.

        Raises:
            OSError: If it cannot be written; earlier checkpoints are untouched.
        """
        target = self.checkpoints / f"step-{step:08d}"
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}-new")
        try:
            aside.mkdir()
            result.save(aside)
            save_file({k: v.contiguous() for k, v in tensors.items()}, aside / _TENSORS)
            (aside / _STATE).write_text(json.dumps(state), encoding="utf-8")
            for file in (path for path in aside.rglob("*") if path.is_file()):
                _reach_disk(file)
            if target.is_dir():
                _delete(target)
            aside.rename(target)
        except (OSError, SafetensorError) as error:
            last = self.latest()
            raise OSError(
                f"The checkpoint of step {step} could not be written to '{self.checkpoints}' ({error}). "
                f"{f'{last.name} is intact' if last else 'There is no earlier one'}: make room, and start again."
            ) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        for old in sorted(self.checkpoints.glob("step-*"))[:-keep_last]:
            _delete(old)
        return target

    def finish(self, result: Result) -> None:
        """Write the result; what another has left is replaced.

        Raises:
            OSError: If it cannot be written; the checkpoints are untouched.
        """
        try:
            result.save(self.path)
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"The result could not be written to '{self.path}' ({error}). {self.latest().name} is intact: make "
                "room, and start again."
            ) from error

    @staticmethod
    def load_state(checkpoint: Path) -> tuple[dict, dict[str, Tensor]]:
        """Return the `state` and `tensors` that `save` was given."""
        return json.loads((checkpoint / _STATE).read_text(encoding="utf-8")), load_file(checkpoint / _TENSORS)


def _delete(checkpoint: Path) -> None:
    hidden = checkpoint.with_name(f".{checkpoint.name}-old")  # half deleted it must not be taken for one
    checkpoint.rename(hidden)
    shutil.rmtree(hidden)


def _reach_disk(file: Path) -> None:
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())


def push_run(folder: str | os.PathLike, repo_id: str, **kwargs):
    """Upload the result of a run: adapters, LoRA, card and record, as one commit.

    Args:
        folder: The run's folder, or one of its checkpoints; of a run that has not ended, the last checkpoint.
        repo_id: "name" or "organisation/name"; created if it is not there.
        kwargs: `token`, `private`, `create_pr`, `commit_message`.

    Raises:
        ValueError: If it holds no result of a run.
    """
    found = [source for source in (Path(folder), RunFolder(folder).latest()) if source and (source / RECORD).is_file()]
    if not found:
        raise ValueError(
            f"'{folder}' is no folder of a training run that has written a checkpoint: there is no {RECORD}."
        )
    source = max(found, key=lambda path: json.loads((path / RECORD).read_text(encoding="utf-8"))["steps"])
    files = [f"{name}/{file}" for name in ADAPTERS for file in ("config.json", SAFETENSORS_WEIGHTS_NAME)]
    files += ["README.md", RECORD, LORA_WEIGHTS]
    with tempfile.TemporaryDirectory() as scratch:
        for file in files:
            if (source / file).is_file():
                target = Path(scratch, file)
                target.parent.mkdir(exist_ok=True)
                shutil.copy(source / file, target)
        return upload(Path(scratch), repo_id, **kwargs)
