"""Callbacks of a training: checkpoints to resume from, and its progress on the screen."""

import os
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

from lightning_modules.stage import StageModule

LAST = "last.ckpt"
"""Name of the file in a run's folder from which a killed training resumes."""
PREVIOUS = "previous.ckpt"
"""Name of the checkpoint before it, which is resumed from where the last one is damaged."""
NOT_SHOWN = ("train/lr", "valid/cer", "train/data_wait_share", "train/peak_memory_gib")
"""Metrics that are logged but would make the line of progress too long."""


class ResumeCheckpoint(L.Callback):
    """Writes the checkpoint from which the same command resumes: at an interval, and on SIGTERM.

    All ranks stop after the same update, whichever of them gets SIGTERM. Lightning's own handler
    makes a rank wait for the others in the middle of whatever they do, and with several ranks may
    wait for ever.

    Args:
        path: file of the checkpoint.
        every_s: seconds between two checkpoints.
    """

    def __init__(self, path: Path, every_s: float):
        self.path = path
        self.every_s = every_s
        self._stop_requested = False
        self._last_written = time.monotonic()
        self._earlier_s = 0.0
        self._start = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, including those before the training was killed."""
        return self._earlier_s + time.monotonic() - self._start

    @property
    def stop_requested(self) -> bool:
        """Whether this process has got SIGTERM in training."""
        return self._stop_requested

    def state_dict(self) -> dict[str, Any]:
        """Return the training time for the checkpoint."""
        return {"elapsed_s": self.elapsed_s}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the training time of a checkpoint."""
        self._earlier_s = state["elapsed_s"]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Replace Lightning's handler of SIGTERM."""
        self._handle_sigterm(trainer)

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Replace Lightning's handler of SIGTERM."""
        self._handle_sigterm(trainer)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write a checkpoint after a whole update, when it is time or when SIGTERM has come.

        There is none before a validation: Lightning would skip the validation when it resumes
        there.
        """
        num_batches = batch_idx + 1
        update_ended = num_batches % trainer.accumulate_grad_batches == 0
        interval = trainer.val_check_batch
        validation_follows = interval is not None and num_batches % interval == 0
        if not update_ended or validation_follows or trainer.global_step >= trainer.max_steps:
            return
        # SIGTERM may reach one rank only, and clocks differ: ranks agree on both decisions
        strategy = trainer.strategy
        stop = strategy.reduce_boolean_decision(self._stop_requested, all=False)
        if stop or strategy.broadcast(time.monotonic() - self._last_written >= self.every_s):
            assert isinstance(module, StageModule)
            # after a skipped update the weights may be spoilt already
            if not module.updates.num_in_a_row:
                self._save(trainer)
            self._last_written = time.monotonic()
        if stop:
            raise SIGTERMException

    def on_validation_batch_end(self, *_: Any) -> None:
        """Stop on SIGTERM."""
        self._stop_if_requested()

    def on_test_batch_end(self, *_: Any) -> None:
        """Stop on SIGTERM."""
        self._stop_if_requested()

    def _save(self, trainer: L.Trainer) -> None:
        """Write the checkpoint, and keep the one before it."""
        if trainer.is_global_zero and self.path.exists():
            os.replace(self.path, self.path.with_name(PREVIOUS))
        trainer.save_checkpoint(self.path)

    def _handle_sigterm(self, trainer: L.Trainer) -> None:
        def stop(*_: Any) -> None:
            if not self._stop_requested and trainer.strategy.launcher is not None:
                # the ranks that this process has started
                trainer.strategy.launcher.kill(signal.SIGTERM)
            self._stop_requested = True

        # Python accepts handlers only from the main thread
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, stop)

    def _stop_if_requested(self) -> None:
        """Stop without a checkpoint, so that ranks need not agree: resuming repeats the scoring."""
        if self._stop_requested:
            raise SIGTERMException


class ProgressBar(L.Callback):
    """Shows one progress bar per stage; where the output is no terminal, a line at each validation.

    Args:
        stage: name of the stage.
        max_steps: number of updates.
    """

    def __init__(self, stage: str, max_steps: int):
        self.stage = stage
        self.max_steps = max_steps
        self.console = Console(stderr=True)
        self._start = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Show the bar, and one line where several processes train."""
        # a bar in a log file would be a line for every change
        is_shown = self.console.is_terminal and trainer.is_global_zero
        if trainer.is_global_zero and trainer.world_size > 1:
            print(f"{self.stage}: training with {trainer.world_size} processes", flush=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not is_shown,
        )
        self.task = self.progress.add_task(
            self.stage, total=self.max_steps, values="", completed=trainer.global_step
        )
        self.progress.start()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Move the bar."""
        values = _format_metrics(trainer)
        self.progress.update(self.task, completed=trainer.global_step, values=values)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Print a line where there is no bar."""
        if self.console.is_terminal or trainer.sanity_checking or not trainer.is_global_zero:
            return
        elapsed_s = time.monotonic() - self._start
        step = f"step {trainer.global_step}/{self.max_steps}"
        print(
            f"{self.stage}: {step}  {_format_metrics(trainer)}  {elapsed_s:.0f} s",
            flush=True,
        )

    def on_train_end(self, *_: Any) -> None:
        """Leave the bar as it is."""
        self.progress.stop()

    def on_exception(self, *_: Any) -> None:
        """Leave the bar as it is, so that the error message has lines of its own."""
        # the error may come before training has started
        if hasattr(self, "progress"):
            self.progress.stop()


def _format_metrics(trainer: L.Trainer) -> str:
    shown = []
    for name, value in trainer.callback_metrics.items():
        if name == "train/audio_s_per_s":
            shown.append(f"{name} {float(value):.0f}")
        elif name not in NOT_SHOWN:
            shown.append(f"{name} {float(value):.3f}")
    return "  ".join(shown)
