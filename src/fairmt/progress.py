"""A progress bar with loss, worst gap and strength."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FIGURES = {"loss": "loss", "worst": "worst gap", "strength": "λ"}


class Progress:
    """Shows where a run stands; does nothing where it is not wanted."""

    def __init__(self, wanted: bool, epochs: int) -> None:
        self._wanted, self._epochs, self._done = wanted, epochs, 0
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._wanted:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("training", total=self._epochs, figures="")
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, segment: str, epoch: int, part: float, log: Mapping[str, Any]) -> None:
        """The state of a batch: `part` of the epoch is done."""
        if self._bar is not None:
            figures = [f"{name} {float(log[k]):.3f}" for k, name in _FIGURES.items() if k in log]
            self._bar.update(
                self._task,
                description=f"{segment}, epoch {epoch + 1}",
                completed=self._done + part,
                figures="  ".join(figures),
            )

    def epoch_done(self, segment: str, epoch: int, figures: Mapping[str, Any]) -> None:
        self.show(segment, epoch, 1.0, figures)
        self._done += 1
