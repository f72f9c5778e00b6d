"""The loop of a training run (sections 3.4 and 4.1): resume, steps, checkpoints, validation, signals."""

import importlib.util
import math
import signal
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import torch
from diffusers.optimization import get_scheduler
from peft.utils import get_peft_model_state_dict

from ..data.dataset import SIGNALS, batches
from ..data.shards import Shards
from ..extras import require
from ..files.digests import content_digest
from .build import TRAINED, build_adapters, load_base, place_host, sharded, training_samples, vision_model
from .config import TrainingConfig
from .log import TrainingLog
from .optimizer import average_gradients, collect_state, gathered, restore_state, step_if_finite
from .run_folder import Result, RunFolder
from .step import TrainingStep
from .validation import Validation, encode_prompts


class Trainer:
    """A training run. Under `accelerate launch` each process builds one, and all of them train together.

    Building it loads everything and checks what can be checked; `run` trains. A run that is in the output folder is
    continued as if it had never stopped.

    Args:
        config: The settings of the run.

    Attributes:
        step: The losses of a batch, with the pipeline and the adapters.
        adapters: The adapters by name.
        samples: The samples of the shards.
        first: Steps that an earlier process has done.

    Raises:
        ValueError: If the output folder holds another run, or the shards, the adapters or the base do not fit.
        OSError: If a file or a download fails, or if another process is at work in the output folder.
        ImportError: If a package for training, or the tracker, is not installed.
    """

    def __init__(self, config: TrainingConfig):
        accelerate = require("accelerate", "train")
        self.config = config
        if config.tracker is not None and importlib.util.find_spec(config.tracker) is None:
            raise ImportError(
                f"tracker is {config.tracker!r}, which is not installed. Install it with pip install {config.tracker}, "
                "or set tracker to null."
            )
        self.folder = RunFolder(config.output)
        self.shards = Shards(config.shards)
        self.shards.check_base(config.base)
        project = accelerate.utils.ProjectConfiguration(config.output, logging_dir=str(self.folder.path / "logs"))
        # Downloads and validation may keep one process for longer than the ten minutes that others would wait.
        patience = accelerate.InitProcessGroupKwargs(timeout=timedelta(days=1))
        self.accelerator = accelerate.Accelerator(
            log_with=config.tracker, project_config=project, kwargs_handlers=[patience]
        )
        with self.accelerator.main_process_first():
            if self.accelerator.is_main_process:
                self.folder.claim(config)
        try:
            self._set_up(config)
        except BaseException:
            self.folder.release()
            raise

    def _set_up(self, config: TrainingConfig) -> None:
        from accelerate.utils import gather_object, set_seed

        set_seed(config.seed)
        self.checkpoint = self.folder.latest()

        length, device = len(self.shards.null_prompt), self.accelerator.device
        with self.accelerator.main_process_first():  # it downloads what the others then find
            prompts = encode_prompts(config, length, device) if config.validate_every else []
            pipe = load_base(config)
        if config.memory_gib and device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, config.memory_gib * 2**30 / total))
        self.adapters, self.metadata = build_adapters(config, pipe, self.checkpoint)
        place_host(config, pipe, self.accelerator, self.checkpoint)
        for name, adapter in self.adapters.items():
            adapter.to(device).requires_grad_(name in TRAINED[config.stage])
        encoder = self.adapters.get("encoder")
        vision = encoder and vision_model(config, encoder, device)
        self.step = TrainingStep(pipe, self.adapters, vision, config, self.shards.null_prompt)
        self.parameters = {
            **{f"{n}.{k}": p for n, a in self.adapters.items() for k, p in a.named_parameters() if p.requires_grad},
            **{f"host.{k}": p for k, p in pipe.transformer.named_parameters() if p.requires_grad},
        }
        self.samples = training_samples(config, self.shards, pipe, self.step)
        self.validation = Validation(self.step, self.shards, config, prompts) if config.validate_every else None
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            config.learning_rate,
            config.adam_betas,
            weight_decay=config.weight_decay,
            fused=device.type == "cuda" and not sharded(self.accelerator),
        )
        self.lr_scheduler = get_scheduler(
            config.lr_scheduler, self.optimizer, num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=config.steps,
        )  # fmt: skip
        self.first = self.bad_steps = self.batches_done = 0
        if self.checkpoint is not None:
            self._resume()
        begins = gather_object([self.first])
        if len(set(begins)) > 1:
            raise ValueError(
                f"The processes would begin after different steps, {sorted(set(begins))}. Put output, "
                f"'{config.output}', on a file system that all machines share."
            )
        self._signalled = self._stop = False

    def run(self) -> Path:
        """Train until the last step, or until SIGTERM or SIGINT, after which a checkpoint is written.

        Returns:
            The folder of the run, with the adapters in it once the last step is done.

        Raises:
            FloatingPointError: If `max_bad_steps` steps in a row were not finite.
            OSError: If a checkpoint cannot be written.
        """
        config, accelerator = self.config, self.accelerator
        if config.tracker is not None:
            settings = {k: v if isinstance(v, int | float | str) else str(v) for k, v in config.as_dict().items()}
            accelerator.init_trackers("lavieid", settings)
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            data = batches(
                self.samples, config.batch_size, start=self.batches_done + accelerator.process_index,
                stride=accelerator.num_processes, num_workers=config.num_workers,
            )  # fmt: skip
            with TrainingLog(accelerator, self.first, config.steps, config.log_every) as log:
                log.say(self._describe())
                for number in range(self.first + 1, config.steps + 1):
                    begin = time.perf_counter()
                    learning_rate = self.lr_scheduler.get_last_lr()[0]
                    figures = self._train_step(number, data)
                    figures["seconds_per_step"] = time.perf_counter() - begin, 1
                    log.step(number, figures, learning_rate)
                    if self.bad_steps:
                        log.say(f"step {number}: loss or gradient not finite, step skipped ({self.bad_steps} in a row)")
                    if self.bad_steps >= config.max_bad_steps:
                        last = self.folder.latest()
                        raise FloatingPointError(
                            f"{self.bad_steps} steps in a row were not finite. Lower learning_rate, or look at the "
                            f"clips. {f'{last} is intact' if last else 'No checkpoint had been written yet'}."
                        )
                    if self._stop or number % config.checkpoint_every == 0 or number == config.steps:
                        self._save(number)
                    if self._stop:
                        log.say(f"stopped after step {number}; the same command goes on from there")
                        return self.folder.path
                    if self.validation and (number % config.validate_every == 0 or number == config.steps):
                        self._validate(number)
                result = self._result(config.steps)
                if accelerator.is_main_process:
                    self.folder.finish(result)
                log.say(f"the adapters are in {self.folder.path}")
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            accelerator.end_training()
            self.folder.release()
        return self.folder.path

    def _train_step(self, number: int, data) -> dict[str, tuple[float, float]]:
        """Take one step of the optimizer; return its figures as sums and counts."""
        config, device = self.config, self.accelerator.device
        figures = dict.fromkeys(("loss", "diffusion", "route", "tam", "accuracy"), (0.0, 0.0))
        sums = torch.zeros(len(figures) + 1, 2, device=device)  # the last says whether to stop
        route_only = number <= config.route_warmup_steps and config.stage != "tam"
        with self.step.attention:
            for _ in range(config.gradient_accumulation):
                batch = next(data).to(device)
                self.step.checkpointing.begin(device, batch.latents.numel())
                losses = self.step(batch, route_only)
                (losses["loss"] / config.gradient_accumulation).backward()
                for i, name in enumerate(figures):
                    if name in losses:
                        sums[i] += torch.stack([losses[name].detach(), losses[name].new_ones(())]).to(sums)
                    elif name == "accuracy" and "labelled" in losses:
                        sums[i] += torch.stack([losses["correct"], losses["labelled"]]).to(sums)
        sums[-1, 0] = float(self._signalled)
        average_gradients(self.parameters.values(), self.accelerator)
        sums = self.accelerator.reduce(sums, "sum").flatten().tolist()
        self._stop = sums[-2] > 0
        finite = step_if_finite(
            self.optimizer, list(self.parameters.values()), config.max_grad_norm, math.isfinite(sums[0])
        )
        self.bad_steps = 0 if finite else self.bad_steps + 1
        self.batches_done += config.gradient_accumulation * self.accelerator.num_processes
        if finite:
            self.lr_scheduler.step()
        self.step.checkpointing.settle(device, config.memory_gib and config.memory_gib * 2**30)
        return {name: tuple(sums[2 * i : 2 * i + 2]) for i, name in enumerate(figures)} if finite else {}

    @property
    def _global_batch(self) -> int:
        return self.config.batch_size * self.config.gradient_accumulation * self.accelerator.num_processes

    @property
    def _clips(self) -> str:
        """Number of samples and a digest of their keys, which fix the samples and their order."""
        return f"{len(self.shards)} ({content_digest(*(line['key'] for line in self.shards.index))[:16]})"

    def _result(self, step: int) -> Result:
        """Return what there is to save after a step. Every process must call it, because FSDP gathers its shards."""
        config = self.config
        record = {
            "steps": step,
            "clips": len(self.shards),
            "samples_seen": self.batches_done * config.batch_size,
            "processes": self.accelerator.num_processes,
            **config.recipe(),
        }
        lora = None
        if config.lora_rank:
            transformer = self.step.transformer
            weights = {k: gathered(v).cpu() for k, v in get_peft_model_state_dict(transformer).items()}
            lora = weights, transformer.peft_config["default"].to_dict()
        return Result(self.adapters, self.metadata, record, lora)

    def _save(self, step: int) -> None:
        result, tensors = self._result(step), collect_state(self.optimizer, self.parameters)
        state = {
            "step": step,
            "bad_steps": self.bad_steps,
            "batches_done": self.batches_done,
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "global_batch": self._global_batch,
            "clips": self._clips,
        }
        if self.accelerator.is_main_process:
            self.folder.save(step, result, state, tensors, self.config.keep_last)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        state, tensors = RunFolder.load_state(self.checkpoint)
        restore_state(self.optimizer, self.parameters, tensors)
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        same_batch = "Set gradient_accumulation so that batch_size × it × GPUs is the same"
        for name, now, remedy in (
            ("global batch", self._global_batch, same_batch),
            ("clips", self._clips, "Take the shards as they were, or another output"),
        ):
            was = state[name.replace(" ", "_")]
            if was != now:
                raise ValueError(f"The run in '{self.folder.path}' had {name} {was}, but now {now}. {remedy}.")
        self.first, self.bad_steps, self.batches_done = (state[k] for k in ("step", "bad_steps", "batches_done"))
        if self.first > self.config.steps:
            raise ValueError(
                f"steps is {self.config.steps}, but '{self.folder.path}' has done {self.first}. Set steps to more, or "
                "output to another folder."
            )

    def _validate(self, step: int) -> None:
        subjects, accelerator = range(len(self.validation.subjects)), self.accelerator
        # A sharded host computes in all processes at once; else each process takes its share.
        mine = subjects if sharded(accelerator) else subjects[accelerator.process_index :: accelerator.num_processes]
        folder = self.folder.path / "validation" / f"step-{step:08d}"
        self.validation(folder if accelerator.is_main_process or not sharded(accelerator) else None, mine)
        accelerator.wait_for_everyone()

    def _describe(self) -> str:
        config, processes = self.config, self.accelerator.num_processes
        trained = sum(p.numel() for p in self.parameters.values()) / 1e6
        batch = config.batch_size * config.gradient_accumulation * processes
        begun = f", from step {self.first}" if self.first else ""
        rare = sum(count for count in Counter(self.shards.sizes).values() if count < config.batch_size)
        left_out = f" ({rare} of them of sizes too rare for a batch)" if rare else ""
        return (
            f"{trained:.1f} M parameters of {', '.join(TRAINED[config.stage])}{' and LoRA' * (config.lora_rank > 0)}, "
            f"{len(self.shards)} clips{left_out}, batch {batch} on {processes} × {self.accelerator.device.type}, "
            f"{config.steps} steps{begun}"
        )

    def _on_signal(self, number: int, frame) -> None:
        self._signalled = True
        if number == signal.SIGINT:  # a launcher may send SIGTERM again, but a person who is in a hurry Ctrl-C
            signal.signal(number, signal.default_int_handler)
