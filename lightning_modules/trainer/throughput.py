"""Speed and memory of a training, logged with the other metrics."""

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.profilers import Profiler
from torch import Tensor

from configs.schema import Config
from datamodules.dialogue.data import DialogueBatch
from duplexmamba.streaming.padded import Padded
from lightning_modules.trainer.summary import peak_gib

AUDIO_RATE = "train/audio_s_per_s"
WAIT_SHARE = "train/data_wait_share"
PEAK_MEMORY = "train/peak_memory_gib"
METRICS = (AUDIO_RATE, WAIT_SHARE, PEAK_MEMORY)
FETCH = "[_TrainingEpochLoop].train_dataloader_next"
"""Lightning's name for taking the next batch from the data loader."""


class DataWaitTimer(Profiler):
    """A profiler that measures one thing: the time that training waits for its data loader."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_s = 0.0
        self._start = 0.0

    def start(self, action_name: str) -> None:
        """Note the time if the action is a fetch of a batch."""
        if action_name == FETCH:
            self._start = time.monotonic()

    def stop(self, action_name: str) -> None:
        """Add the duration if the action is a fetch of a batch."""
        if action_name == FETCH:
            self.waited_s += time.monotonic() - self._start


class ThroughputLogger(L.Callback):
    """Logs three numbers at each log interval; time in validation does not count.

    - train/audio_s_per_s: seconds of training audio, padding left out, processed by all ranks in a
      second; absent where a stage has no audio.
    - train/data_wait_share: share of its time that this rank has waited for data.
    - train/peak_memory_gib: largest memory so far, of the GPU or of this process, whichever is
      larger.
    """

    def __init__(self, config: Config):
        self.data_wait = DataWaitTimer()
        self._sample_rate_hz = config.features.sample_rate_hz
        self._validation_start = 0.0
        self._last_step = 0
        self._num_samples: int | Tensor = 0
        self._start = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start to measure."""
        self._last_step = trainer.global_step
        self._reset()

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Note the beginning of a time that does not count."""
        self._validation_start = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Leave out the time of the validation."""
        # moves the start of the interval instead of keeping a second sum
        self._start += time.monotonic() - self._validation_start

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the audio of the batch, and log when Lightning logs the other metrics."""
        self._num_samples = self._num_samples + num_audio_samples(batch)
        step = trainer.global_step
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step % interval != 0 or step == self._last_step:
            return
        self._last_step = step
        self._log(trainer, module)
        self._reset()

    def _reset(self) -> None:
        self._num_samples = 0
        self._start = time.monotonic()
        self.data_wait.waited_s = 0.0

    def _log(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        elapsed_s = time.monotonic() - self._start
        rate = float(self._num_samples) / self._sample_rate_hz / elapsed_s
        # every rank takes part, whether or not its own batches had audio
        rate_of_rank = torch.tensor(rate, device=module.device)
        total_rate = trainer.strategy.reduce(rate_of_rank, reduce_op="sum")
        if total_rate > 0:
            module.log(AUDIO_RATE, total_rate)
        module.log(WAIT_SHARE, min(1.0, self.data_wait.waited_s / elapsed_s))
        module.log(PEAK_MEMORY, peak_gib())


def num_audio_samples(batch: Any) -> int | Tensor:
    """Return the number of audio samples in a batch, padding left out; 0 for a batch of texts."""
    # batches of dialogues come with utterances that are trained on as well
    if isinstance(batch, DialogueBatch):
        return _num_samples(batch.samples) + num_audio_samples(batch.utterances)
    samples = getattr(batch, "samples", None)
    return _num_samples(samples) if isinstance(samples, Padded) else 0


def _num_samples(samples: Padded) -> int | Tensor:
    if samples.lengths is None:
        return samples.values.numel()
    # stays on the GPU: reading the number for each batch would wait for the GPU
    return samples.lengths.sum()
