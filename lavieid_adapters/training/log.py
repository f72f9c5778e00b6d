"""The log of a training run: lines and a progress bar in the terminal, and a tracker's curves."""

from collections import defaultdict
from collections.abc import Mapping

from ..extras import require


class TrainingLog:
    """Log that averages the figures of steps, prints them, and passes them to accelerate's trackers; a context manager.

    Args:
        accelerator: Its main process prints, and its trackers receive the figures.
        first, last: The run's first step here, and its last.
        every: Steps between entries.
    """

    def __init__(self, accelerator, first: int, last: int, every: int):
        progress = require("rich.progress", "train")
        self._accelerator, self._every, self._last = accelerator, every, last
        self._sums, self._counts = defaultdict(float), defaultdict(int)
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            disable=not accelerator.is_main_process,
        )
        self._task = self._bar.add_task("training", total=last, completed=first)

    def __enter__(self):
        self._bar.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._bar.__exit__(*error)

    def step(self, number: int, figures: Mapping[str, tuple[float, float]], learning_rate: float) -> None:
        """Count a step that is done.

        Args:
            number: How many are.
            figures: Sums over samples and over how many, by name.
            learning_rate: Of the step.
        """
        for name, (total, count) in figures.items():
            if count:
                self._sums[name] += total
                self._counts[name] += count
        self._bar.advance(self._task)
        if number % self._every and number != self._last:
            return
        means = {name: self._sums[name] / self._counts[name] for name in self._sums}
        means["learning_rate"] = learning_rate
        self._accelerator.log({f"train/{name}": value for name, value in means.items()}, step=number)
        text = " · ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in means.items())
        self.say(f"step {number}: {text}")
        self._sums.clear()
        self._counts.clear()

    def say(self, text: str) -> None:
        """Print a line above the bar, from the main process."""
        if self._accelerator.is_main_process:
            self._bar.console.print(text, highlight=False, soft_wrap=True, markup=False)
