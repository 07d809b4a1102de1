"""What one stage hands to the next: averaged weights, the configuration and the tokenizer in one file."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from configs.loading import from_dict, to_dict
from configs.schema import Config
from duplexmamba.models.speech_lm import part_of
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.stage import StageModule
from lightning_modules.trainer.fsdp import share, whole

FILE = "checkpoint.pt"


@dataclasses.dataclass(frozen=True)
class StageCheckpoint:
    """A trained stage, whole."""

    config: Config
    tokens: Tokenizer | None
    """None where the stage needs no text ids."""
    weights: dict[str, Tensor]

    def save(self, path: Path) -> None:
        """Write in one piece: a reader sees the old file or the new one, never half of one."""
        json = None if self.tokens is None else self.tokens.to_json()
        write_atomically(
            {"config": to_dict(self.config), "tokenizer": json, "weights": self.weights}, path
        )

    @classmethod
    def load(cls, path: Path) -> "StageCheckpoint":
        """Raises ValueError if the file is missing or not a hand-over."""
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
            tokens = (
                None if stored["tokenizer"] is None else Tokenizer.from_json(stored["tokenizer"])
            )
            return cls(from_dict(stored["config"]), tokens, stored["weights"])
        except FileNotFoundError:
            message = f"no checkpoint at {path}; train one with `make train`, or name a run that has finished"
            raise ValueError(message) from None
        except (
            Exception
        ) as error:  # torch, zip, pickle and config errors alike mean an unreadable file
            message = f"{path} is not a readable checkpoint ({error}); delete it and train that stage again"
            raise ValueError(message) from error


def write_atomically(value: Any, path: Path) -> None:
    """torch.save that leaves the previous file whole if it cannot finish, even when the power fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            torch.save(value, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written as the hand-over is."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        write_atomically(checkpoint, Path(path))


def load_parts(model: nn.Module, given: StageCheckpoint, parts: list[str], source: str) -> None:
    """Copy whole parts of a hand-over into a model.

    Raises:
        ValueError: weights are missing, unknown or of another shape; says how many, and the first.
    """
    ours = {n: t for n, t in model.state_dict().items() if part_of(n) in parts}
    theirs = {n: t for n, t in given.weights.items() if part_of(n) in parts}
    wrong = [f"{name} is missing there" for name in sorted(ours.keys() - theirs.keys())]
    wrong += [f"{name} is unknown here" for name in sorted(theirs.keys() - ours.keys())]
    wrong += [
        f"{name} is {tuple(theirs[name].shape)} there and {tuple(ours[name].shape)} here"
        for name in sorted(ours.keys() & theirs.keys())
        if ours[name].shape != theirs[name].shape
    ]
    if wrong:
        raise ValueError(
            f"the checkpoint of {source} does not fit this configuration in {len(wrong)} weights ({wrong[0]}, ...); "
            "use the configuration it was trained with"
        )
    model.load_state_dict(theirs, strict=False)


def load_ctc_head(model: nn.Module, given: StageCheckpoint, source: str) -> None:
    """Let a connector's CTC head begin as that of the encoder's stage. Raises ValueError: the hand-over has none."""
    head = {
        f"connector.head.{n.removeprefix('ctc.')}": t
        for n, t in given.weights.items()
        if part_of(n) == "ctc"
    }
    if not head:
        raise ValueError(
            f"the checkpoint of {source} has no CTC head, with which connector.kind=ctc begins: set stage.init.encoder "
            "to a run of stage encoder, or connector.kind=stack"
        )
    model.load_state_dict(head, strict=False)


class WeightAveraging(L.Callback):
    """Mean of the trained weights over the last `average_last` snapshots, put in place when training ends."""

    def __init__(self, config: Config):
        c = config.trainer
        last = range(c.max_steps, 0, -c.average_every_steps)
        self.steps = set(last[: c.average_last])
        self.sum: dict[str, Tensor] = {}
        self.count = 0
        self.last_step = 0

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step not in self.steps or trainer.global_step == self.last_step:
            return
        self.last_step = trainer.global_step
        assert isinstance(module, StageModule)
        for name, weight in module.model.named_parameters():
            if weight.requires_grad:
                value = whole(weight.detach()).to("cpu", torch.float32, copy=True)
                self.sum[name] = self.sum[name] + value if name in self.sum else value
        self.count += 1

    @torch.no_grad()
    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, StageModule)
        weights = dict(module.model.named_parameters())
        for name, total in self.sum.items():
            weights[name].copy_(share(total / self.count, weights[name]))

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self.sum, "count": self.count, "last_step": self.last_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sum, self.count, self.last_step = state["sum"], state["count"], state["last_step"]
