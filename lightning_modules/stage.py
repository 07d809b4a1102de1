"""What all stages share: freezing, the optimiser, repeatable randomness, skipped files, scores."""

import abc
import math
from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from configs.schema import Config, OptimConfig
from duplexmamba.models.lora import in_common
from duplexmamba.models.speech_lm import is_adapter, part_of
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.trainer.fsdp import local_shard, max_over_ranks, shard

MIN_SEEN = 50
"""Utterances after which the share of unusable ones is judged."""


class StageModule(L.LightningModule, abc.ABC):
    """Model in, `model_step` per stage, log out."""

    model: nn.Module
    tokenizer: Tokenizer | None

    def __init__(self, config: Config, model: nn.Module, tokenizer: Tokenizer | None):
        super().__init__()
        self.config, self.model, self.tokenizer = config, model, tokenizer
        self.seen = 0
        self.skipped: list[str] = []
        self.scored: list[tuple[str, str]] = []
        self._freeze()

    @abc.abstractmethod
    def model_step(self, batch: Any) -> Tensor:
        """The loss of a batch."""

    @abc.abstractmethod
    def hypotheses(self, batch: Any) -> list[tuple[str, str]]:
        """(reference, hypothesis) of each item of a batch."""

    @abc.abstractmethod
    def scores(self, pairs: list[tuple[str, str]]) -> dict[str, float]:
        """Names and values over a whole set."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self._note_skipped(batch)
        loss = self._no_loss() if max_over_ranks(not len(batch), self) else self.model_step(batch)
        self.log("train/loss", loss.detach(), batch_size=1)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._note_skipped(batch)
        if not len(batch):
            return
        self.log("valid/loss", self.model_step(batch), on_epoch=True, batch_size=1, sync_dist=True)
        self.scored += self.hypotheses(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._note_skipped(batch)
        if len(batch):
            self.scored += self.hypotheses(batch)

    def on_validation_epoch_start(self) -> None:
        torch.manual_seed(self.config.seed)
        self.scored = []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        self._log_scores("valid")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Dropout of update k is the same in a run that was killed and one that was not."""
        torch.manual_seed(hash((self.config.seed, self.global_step, self.global_rank, batch_idx)))

    def on_train_start(self) -> None:
        """Lightning begins with every part in the mode in which it was made."""
        self.train()

    def train(self, mode: bool = True) -> "StageModule":
        """Frozen parts stay in eval mode: no dropout in what does not learn."""
        super().train(mode)
        for name, part in self.model.named_children():
            part.train(mode and name in self._trained())
        return self

    def configure_model(self) -> None:
        """Lightning asks before it trains or scores; scoring takes whole weights."""
        if self.device_mesh is not None and self.trainer.training:
            shard(self, "model_step", self.device_mesh["data_parallel"])

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's own refuses a fused optimiser in mixed precision, for the scale of float16, which bfloat16 has
        not."""
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(
                [w for g in optimizer.param_groups for w in g["params"]], gradient_clip_val
            )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        c = self.config.optim
        groups = decay_groups(self.model.named_parameters(), c.weight_decay)
        optimizer = torch.optim.AdamW(
            groups, lr=c.lr, betas=(c.betas[0], c.betas[1]), eps=c.eps, fused=True
        )
        factor = schedule(c, self.config.trainer.max_steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def num_trained(self) -> int:
        """Parameters that learn."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def _no_loss(self) -> Tensor:
        """Zero, with a gradient for every weight: other ranks wait for this one's."""
        learning = (local_shard(p) for p in self.model.parameters() if p.requires_grad)
        return 0 * sum((p.sum() for p in learning), torch.zeros((), device=self.device))

    def _trained(self) -> set[str]:
        return {*self.config.stage.trained, "ctc"}

    def _freeze(self) -> None:
        adapted = {part_of(name) for name, _ in self.model.named_parameters() if is_adapter(name)}
        for name, parameter in self.model.named_parameters():
            full_tensor = part_of(name) not in adapted
            parameter.requires_grad_(
                part_of(name) in self._trained() and (full_tensor or is_adapter(name))
            )
        if not self.config.lora.shared_trainable:
            for parameter in in_common(self.model, self.config.lora):
                parameter.requires_grad_(False)

    def _log_scores(self, split: str) -> None:
        gathered: list[list[tuple[str, str]]] = [self.scored]
        if self.trainer.world_size > 1:
            gathered = [[] for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(gathered, self.scored)
        self.scored = [pair for pairs in gathered for pair in pairs]
        if not self.scored:
            raise ValueError(
                f"no utterance of the {split} split could be used: {'; '.join(self.skipped[:3])}; mend them"
            )
        for name, value in self.scores(self.scored).items():
            self.log(f"{split}/{name}", value, rank_zero_only=False)

    def _note_skipped(self, batch: Any) -> None:
        skipped = getattr(batch, "skipped", [])
        self.skipped += skipped
        self.seen += len(skipped) + len(batch)
        limit = self.config.data.max_bad_share
        if self.seen >= MIN_SEEN and len(self.skipped) > limit * self.seen:
            raise ValueError(
                f"{len(self.skipped)} of {self.seen} utterances could not be used, more than "
                f"data.max_bad_share={limit}: {'; '.join(self.skipped[:3])}; "
                "mend or remove them, or raise data.max_bad_share"
            )


def decay_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, Any]]:
    """Matrices decay; vectors, biases and the scan's A do not."""
    learning = [(n, p) for n, p in parameters if p.requires_grad]
    decayed = [p for n, p in learning if p.dim() > 1 and not n.endswith("A_log")]
    rest = [p for n, p in learning if p.dim() <= 1 or n.endswith("A_log")]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]


def schedule(config: OptimConfig, max_steps: int) -> Callable[[int], float]:
    """Update -> factor on the peak rate: linear warm-up, then inverse square root, or a cosine down to zero."""
    warmup = max(config.warmup_steps, 1)

    def inverse_sqrt(step: int) -> float:
        return min((step + 1) / warmup, (warmup / (step + 1)) ** 0.5)

    def cosine(step: int) -> float:
        done = (step - warmup) / max(max_steps - warmup, 1)
        return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0))))

    return cosine if config.schedule == "cosine" else inverse_sqrt


def pad_ids(rows: list[list[int]], device: torch.device, value: int = 0) -> Padded:
    """Rows of ids -> (B, L) int64, padded behind with `value`."""
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    values = nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
    return Padded(values.to(device), torch.tensor([len(r) for r in rows], device=device))
