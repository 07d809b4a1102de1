"""Going on after a kill, and showing how far a stage is."""

import signal
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LAST = "last.ckpt"


class ResumeCheckpoint(L.Callback):
    """Writes the checkpoint from which the same command goes on: every so many seconds, and on SIGTERM.

    Ranks stop behind the same update, whichever of them SIGTERM reaches. Lightning's own handler of it waits for other
    ranks in the middle of whatever they are at, and with several may wait for ever.
    """

    def __init__(self, path: Path, every_s: float):
        self.path, self.every_s = path, every_s
        self._told_to_stop = False
        self._written = time.monotonic()
        self._earlier_s = 0.0
        self._begun = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, those before a kill included."""
        return self._earlier_s + time.monotonic() - self._begun

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed_s": self.elapsed_s}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._earlier_s = state["elapsed_s"]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._listen(trainer)

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._listen(trainer)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Not before a validation, which Lightning would leave out when it goes on from there."""
        between_updates = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        validation_follows = (
            trainer.val_check_batch is not None and (batch_idx + 1) % trainer.val_check_batch == 0
        )
        if not between_updates or validation_follows or trainer.global_step >= trainer.max_steps:
            return
        stop = trainer.strategy.reduce_boolean_decision(self._told_to_stop, all=False)
        if stop or trainer.strategy.broadcast(time.monotonic() - self._written >= self.every_s):
            trainer.save_checkpoint(self.path)
            self._written = time.monotonic()
        if stop:
            raise SIGTERMException

    def on_validation_batch_end(self, *_: Any) -> None:
        self._stop_at_once()

    def on_test_batch_end(self, *_: Any) -> None:
        self._stop_at_once()

    def _listen(self, trainer: L.Trainer) -> None:
        def stop(*_: Any) -> None:
            if not self._told_to_stop and trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(
                    signal.SIGTERM
                )  # the ranks that this one has started
            self._told_to_stop = True

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, stop)

    def _stop_at_once(self) -> None:
        """Nothing is written, so that ranks need not agree: the last checkpoint repeats the scoring."""
        if self._told_to_stop:
            raise SIGTERMException


class ProgressBar(L.Callback):
    """One progress bar per stage; where output is no terminal, a line at each validation."""

    def __init__(self, stage: str, max_steps: int):
        self.stage, self.max_steps = stage, max_steps
        self.console = Console(stderr=True)
        self.begun = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        shown = self.console.is_terminal and trainer.is_global_zero
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[values]}"),
            TimeElapsedColumn(), TimeRemainingColumn(), console=self.console, disable=not shown,
        )  # fmt: skip
        self.task = self.progress.add_task(
            self.stage, total=self.max_steps, values="", completed=trainer.global_step
        )
        self.progress.start()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.progress.update(self.task, completed=trainer.global_step, values=_values(trainer))

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not self.console.is_terminal and not trainer.sanity_checking and trainer.is_global_zero:
            seconds = time.monotonic() - self.begun
            line = f"{self.stage}: step {trainer.global_step}/{self.max_steps}  {_values(trainer)}  {seconds:.0f} s"
            print(line, flush=True)

    def on_train_end(self, *_: Any) -> None:
        self.progress.stop()

    def on_exception(self, *_: Any) -> None:
        if hasattr(self, "progress"):
            self.progress.stop()


def _values(trainer: L.Trainer) -> str:
    shown = {
        n: v for n, v in trainer.callback_metrics.items() if n not in ("train/lr", "valid/cer")
    }
    return "  ".join(f"{name} {float(value):.3f}" for name, value in shown.items())
