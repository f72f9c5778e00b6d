"""Training for as long as there is time: by default the learning rate falls to zero when it is up."""

import copy
import math
import time
from collections.abc import Callable, Iterable

import accelerate
import torch
from torch import Tensor, nn

_PATIENCE = 10.0  # seconds between two lines of progress
_KEEP = 60.0  # and between two savings
_LOOK = 10  # steps between two looks at the clock, where processes must agree on the time
_WARM = 0.04  # share of the time in which the learning rate rises
_DECAY = 0.02  # of matrices and kernels only


def train(
    name: str,
    parameters: Iterable[nn.Parameter],
    loss_of: Callable[[int], Tensor],
    deadline: float | None,
    learning_rate: float,
    accelerator=None,
    steps: int | None = None,
    keep: Callable[[], None] | None = None,
    fall: float | None = None,
    after_step: Callable[[], None] | None = None,
    before_fall: Callable[[], None] | None = None,
) -> tuple[int, float]:
    """AdamW on the loss of each step, up to the deadline. The first step, in which functions may be compiled, is not
    on the schedule.

    Args:
        name: For the lines of progress.
        parameters: What learns.
        loss_of: From the number of a step to its loss.
        deadline: As `time.perf_counter()` counts; None for a number of `steps`.
        learning_rate: The largest, after 4 % of the time.
        accelerator: Whose processes learn together, by the clock of the first; None for a process alone.
        steps: How many there are without a deadline.
        keep: Called in the first process once a minute, to save what has been learnt.
        fall: Share of the time at whose end the learning rate falls to zero in a line and before which it is constant,
            so that training can go on from there; 0 for a rate that never falls, None for a cosine.
        after_step: Called after each step.
        before_fall: Called in the first process once, when the rate begins to fall.

    Returns:
        How many steps there were, and seconds a step.
    """
    parameters = [p for p in parameters if p.requires_grad]
    cuda = parameters[0].is_cuda
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": _DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=cuda)
    step, start, done = 0, None, 0.0
    told, told_step = time.perf_counter(), 0
    kept, first = told, accelerator is None or accelerator.is_main_process
    while True:
        now = time.perf_counter()
        if steps is not None:
            done = step / steps
        elif step % _LOOK == 0 or accelerator is None or accelerator.num_processes == 1:
            done = 0.0 if start is None else (now - start) / max(deadline - start, 1e-6)
            if accelerator is not None:
                done = accelerate.utils.broadcast(torch.tensor(done, device=accelerator.device)).item()
        if step > 1 and done >= 1:
            break
        rate = learning_rate * min(1, done / _WARM) * _level(min(done, 1), fall)
        if fall and done > 1 - fall and before_fall is not None:
            if first:
                before_fall()
            before_fall = None
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(step)
        loss.backward()
        if accelerator is not None and accelerator.num_processes > 1:
            average(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if after_step is not None:
            after_step()
        step += 1
        if start is None:
            loss.item()
            start = time.perf_counter()
        if now - told > _PATIENCE and first:
            each, memory = (now - told) / (step - told_step), torch.cuda.memory_allocated() / 2**30 if cuda else 0.0
            print(
                f"{name}: step {step}, {done:.0%}, loss {loss.item():.4f}, {each:.4f} s/step, {memory:.1f} GiB",
                flush=True,
            )
            told, told_step = time.perf_counter(), step
        if keep is not None and first and now - kept > _KEEP:
            keep()
            kept = time.perf_counter()
    if cuda:
        torch.cuda.synchronize()
    return step, (time.perf_counter() - start) / max(step - 1, 1)


def _level(done: float, fall: float | None) -> float:
    """The learning rate's share of its largest after a share of the time."""
    if fall is None:
        return 0.5 * (1 + math.cos(math.pi * done))
    return min(1, (1 - done) / fall) if fall else 1.0


class MovingAverage:
    """Averages of models' parameters over the last of the training, however long it has been until then.

    Args:
        models: What learns; its present numbers are the first average.
        share: Of all steps so far, the last that count most: the older a step, the less it does.
    """

    def __init__(self, *models: nn.Module, share: float = 0.1):
        self.models = [copy.deepcopy(model).eval().requires_grad_(False) for model in models]
        self._of, self._share, self._step = models, share, 0

    @torch.no_grad()
    def update(self) -> None:
        """Count the models' present numbers in."""
        self._step += 1
        weight = 1 - (1 - 1 / self._step) ** (1 / self._share)
        for average, model in zip(self.models, self._of, strict=True):
            torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in model.parameters()], weight)


def average(parameters: list[nn.Parameter]) -> None:
    """The mean of the gradients over all processes, in one message: each of these networks' own is a small one."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch._utils._flatten_dense_tensors(gradients)
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    torch._foreach_copy_(gradients, torch._utils._unflatten_dense_tensors(flat, gradients))
