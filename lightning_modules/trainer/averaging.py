"""Averaging of weights over the end of a training."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.distributed import broadcast

from configs.schema import Config
from lightning_modules.stage import StageModule
from lightning_modules.trainer.fsdp import full_tensor, share


class WeightAveraging(L.Callback):
    """Replaces the trained weights, when training ends, by their mean over the last snapshots.

    A snapshot is taken every `average_every_steps` updates, counted back from the last update, and
    the mean is over `average_last` of them. The sums are kept by the first rank alone, in float32 on
    the CPU, and are part of Lightning's checkpoints.
    """

    def __init__(self, config: Config):
        trainer = config.trainer
        # the last update has a snapshot, whatever the interval
        snapshot_steps = range(trainer.max_steps, 0, -trainer.average_every_steps)
        self.steps = set(snapshot_steps[: trainer.average_last])
        self.sum: dict[str, Tensor] = {}
        self.count = 0
        self.last_step = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Let go of the sums of a checkpoint on all ranks but the first."""
        if not trainer.is_global_zero:
            self.sum = {}

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Add the weights to the sums after an update that has a snapshot."""
        step = trainer.global_step
        # with gradient accumulation, several batches belong to one update
        if step not in self.steps or step == self.last_step:
            return
        self.last_step = step
        assert isinstance(module, StageModule)
        for name, weight in module.model.named_parameters():
            if not weight.requires_grad:
                continue
            # a collective operation under FSDP: all ranks take part, in the same order
            value = full_tensor(weight.detach())
            if trainer.is_global_zero:
                self._add(name, value)
        self.count += 1

    def _add(self, name: str, weight: Tensor) -> None:
        value = weight.to("cpu", torch.float32, copy=True)
        if name in self.sum:
            value = self.sum[name] + value
        self.sum[name] = value

    @torch.no_grad()
    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Put the means in place, on all ranks."""
        assert isinstance(module, StageModule)
        if not self.count:
            return
        for name, weight in module.model.named_parameters():
            if not weight.requires_grad:
                continue
            mean = torch.empty(weight.shape, device=weight.device)
            if trainer.is_global_zero:
                mean = (self.sum[name] / self.count).to(weight.device)
            if trainer.world_size > 1:
                broadcast(mean, src=0)
            weight.copy_(share(mean, weight))

    def state_dict(self) -> dict[str, Any]:
        """Return the sums for a checkpoint of Lightning's."""
        return {"sum": self.sum, "count": self.count, "last_step": self.last_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the sums of a checkpoint."""
        self.sum = state["sum"]
        self.count = state["count"]
        self.last_step = state["last_step"]
