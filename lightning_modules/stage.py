"""Base of all stages: freezing, optimisation, reproducible dropout, skipped files, scores."""

import abc
import itertools
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from configs.schema import Config
from duplexmamba.models.language_models.marker_rows import is_marker_row
from duplexmamba.models.lora import in_common
from duplexmamba.models.speech_lm import is_adapter, part_of
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.finite import (
    MAX_SKIPPED_UPDATES,
    REMEDY,
    UpdateRecord,
    not_finite,
    shortened,
    utterance_names,
)
from lightning_modules.optim import build_optimizer, learning_rate_factor
from lightning_modules.padding import pad_ids as pad_ids  # users: tests/test_ctc.py
from lightning_modules.results import Result, text_pairs
from lightning_modules.trainer.fsdp import full_tensor, local_shard, max_over_ranks, shard
from lightning_modules.trainer.hardware import training_products

MIN_SEEN = 50
"""Number of utterances from which the share of unusable ones is checked."""
NUM_NAMED = 3
"""Skipped utterances that an error message names."""


class StageModule(L.LightningModule, abc.ABC):
    """A training stage: the loss of a batch, and results and scores for validation and test.

    Logged in training: train/loss, train/loss_<part> where the loss has parts, train/lr, and
    train/grad_norm (before clipping). Logged in validation and test: the scores.

    Args:
        config: the whole configuration.
        model: with the weights it starts from.
        tokenizer: None for a stage without text ids.
    """

    model: nn.Module
    tokenizer: Tokenizer | None

    def __init__(self, config: Config, model: nn.Module, tokenizer: Tokenizer | None):
        super().__init__()
        self.config = config
        self.model = model
        self.tokenizer = tokenizer
        self.num_seen = 0
        self.skipped: list[str] = []
        self.results: list[Result] = []
        self.result_ids: list[str] = []
        self.updates = UpdateRecord()
        self._valid_losses: list[tuple[list[str], Tensor]] = []
        self._freeze()

    @property
    def scored(self) -> list[tuple[str, str]]:
        """(reference, hypothesis) of all results of the last validation or test."""
        return text_pairs(self.results)

    @abc.abstractmethod
    def training_loss(self, batch: Any) -> Tensor:
        """The loss of a batch, a scalar."""

    @abc.abstractmethod
    def validate(self, batch: Any) -> list[Result]:
        """A result for each item of a batch, or several."""

    @abc.abstractmethod
    def scores(self, results: Sequence[Result]) -> dict[str, float]:
        """Scores over all results, by name."""

    def log_loss_part(self, name: str, loss: Tensor) -> None:
        """Log a part of the loss, as it is before its weight, as train/loss_<name>.

        Does nothing outside training: benchmarks and tests compute losses without a trainer.
        """
        if self._trainer is not None and self.trainer.training:
            self.log(f"train/loss_{name}", loss.detach(), batch_size=1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of a batch for Lightning; zero if all its items were skipped."""
        self._note_skipped(batch)
        # with FSDP, no rank may run the model if one cannot
        if max_over_ranks(not len(batch), self):
            loss = self._no_loss()
        else:
            with training_products(self.config.trainer):
                loss = self.training_loss(batch)
        self.updates.add(batch, loss)
        self.log("train/loss", loss.detach(), batch_size=1)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Loss and results of a batch for Lightning."""
        self._note_skipped(batch)
        if not len(batch):
            return
        loss = self.training_loss(batch)
        self._valid_losses.append((utterance_names(batch), loss.detach()))
        self.log("valid/loss", loss, on_epoch=True, batch_size=1, sync_dist=True)
        # results are scored together at the end: error rates are no means over batches
        self.results += self.validate(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Results of a batch for Lightning."""
        self._note_skipped(batch)
        if len(batch):
            self.results += self.validate(batch)
            # batches of text are plain lists, and only those of speech have names
            self.result_ids += getattr(batch, "ids", ())

    def on_validation_epoch_start(self) -> None:
        """Fix the seed, so that each validation draws the same instructions."""
        torch.manual_seed(self.config.seed)
        self.results = []
        self.result_ids = []
        self._valid_losses = []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation, unless the training has diverged."""
        self._check_valid_losses()
        self._log_scores("valid")

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test."""
        self._log_scores("test")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed each batch by its number: a resumed run has the dropout of an uninterrupted one."""
        torch.manual_seed(hash((self.config.seed, self.global_step, self.global_rank, batch_idx)))

    def on_train_start(self) -> None:
        """Set all modes, since Lightning starts with those in which the parts were made."""
        self.train()

    def train(self, mode: bool = True) -> "StageModule":
        """Set the mode of the trained parts; frozen parts stay in eval mode, without dropout."""
        super().train(mode)
        for name, part in self.model.named_children():
            part.train(mode and name in self._trained_parts())
        return self

    def configure_model(self) -> None:
        """Shard the weights for FSDP, in training alone: the test runs on whole weights."""
        if self.device_mesh is not None and self.trainer.training:
            shard(self, "training_loss", self.device_mesh["data_parallel"])

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient by its norm, log the norm, and skip an update that is not finite.

        Lightning's own clipping refuses a fused optimiser in mixed precision, because of the loss
        scale of float16. bfloat16 has no such scale.

        Raises:
            ValueError: too many updates in a row were not finite.
        """
        parameters = [
            parameter for group in optimizer.param_groups for parameter in group["params"]
        ]
        # with FSDP the norm is sharded as the gradients are
        if gradient_clip_val:
            norm = nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        else:
            gradients = [each.grad for each in parameters if each.grad is not None]
            norm = nn.utils.get_total_norm(gradients)
        norm = full_tensor(norm)
        self.log("train/grad_norm", norm)
        self._check_update(norm, parameters)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Optimiser and schedule for Lightning; the schedule advances with each update."""
        config = self.config.optim
        optimizer = build_optimizer(self.named_parameters(), config)
        factor = learning_rate_factor(config, self.config.trainer.max_steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _check_update(self, norm: Tensor, parameters: list[nn.Parameter]) -> None:
        """Skip the update if its losses or its gradient are not finite.

        Raises:
            ValueError: MAX_SKIPPED_UPDATES in a row were skipped.
        """
        is_finite = self.updates.end(norm)
        # all ranks skip the same updates, or their weights would differ
        is_finite = self.trainer.strategy.reduce_boolean_decision(is_finite, all=True)
        self.updates.count(is_finite)
        names = self.updates.take_names()
        if is_finite:
            return
        for parameter in parameters:
            # the optimiser leaves weights without a gradient, and their statistics, as they are
            parameter.grad = None
        problem = f"loss or gradient (norm {float(norm):g}) is not finite at {self._position(1)}"
        if self.updates.num_in_a_row >= MAX_SKIPPED_UPDATES:
            raise ValueError(
                f"{problem}, as in the {MAX_SKIPPED_UPDATES - 1} updates before it; its "
                f"utterances: {names}; {REMEDY}"
            )
        if self.trainer.is_global_zero:
            print(
                f"{problem}: update skipped, {self.updates.num_skipped} so far; its utterances: "
                f"{names}",
                flush=True,
            )

    def _position(self, offset: int = 0) -> str:
        """Stage, number of the update and learning rate, for messages."""
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        return (
            f"stage {self.config.stage.name}, update {self.global_step + offset}, learning rate "
            f"{rate:g} (optim.lr={self.config.optim.lr:g})"
        )

    def _check_valid_losses(self) -> None:
        """Name the batches of the validation whose loss is not finite.

        Raises:
            ValueError: the losses of all batches are not finite.
        """
        bad = [names for names, loss in self._valid_losses if not bool(loss.isfinite())]
        num_batches = len(self._valid_losses)
        self._valid_losses = []
        are_all_bad = self.trainer.strategy.reduce_boolean_decision(
            len(bad) == num_batches, all=True
        )
        if not bad:
            return
        names = shortened(list(itertools.chain.from_iterable(bad)))
        problem = (
            f"the validation loss is not finite at {self._position()}, in {len(bad)} of "
            f"{num_batches} batches; utterances: {names}"
        )
        if are_all_bad:
            raise ValueError(f"{problem}; {REMEDY}")
        print(problem, flush=True)

    def check_finite(self) -> None:
        """Check that the training has ended with weights that can be used.

        Raises:
            ValueError: its last updates were skipped, or a weight is not finite.
        """
        if self.updates.num_in_a_row:
            raise ValueError(
                f"stage {self.config.stage.name}: the last {self.updates.num_in_a_row} updates of "
                "the training were skipped, since loss or gradient was not finite; nothing is "
                f"saved; {REMEDY} that are named above"
            )
        name = not_finite(self.model.named_parameters())
        if name is not None:
            raise ValueError(
                f"stage {self.config.stage.name}: weight {name} is not finite after the training "
                f"(optim.lr={self.config.optim.lr:g}); nothing is saved; lower optim.lr or raise "
                "optim.warmup_steps"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen weights out of a checkpoint of Lightning's.

        A resumed training begins with the same ones: from where the stage starts, or by its seed.
        """
        for name, weight in self.named_parameters():
            if not weight.requires_grad:
                checkpoint["state_dict"].pop(name, None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Complete a checkpoint by the frozen weights of this module."""
        weights = self.state_dict()
        for name, weight in self.named_parameters():
            if not weight.requires_grad:
                checkpoint["state_dict"].setdefault(name, weights[name])

    def num_trained(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def _no_loss(self) -> Tensor:
        """A zero loss with a gradient for every trained weight.

        The gradients are averaged over all ranks, so that each rank has to have them.
        """
        total = torch.zeros((), device=self.device)
        for parameter in self.parameters():
            if parameter.requires_grad:
                total = total + local_shard(parameter).sum()
        return 0 * total

    def _trained_parts(self) -> set[str]:
        return trained_parts(self.config)

    def _freeze(self) -> None:
        freeze(self.model, self.config)

    def _log_scores(self, split: str) -> None:
        """Gather the results of all ranks and log their scores.

        Raises:
            ValueError: there are no results.
        """
        self.results = self._gather_results()
        if not self.results:
            raise ValueError(
                f"no utterance of the {split} split could be used: "
                f"{'; '.join(self.skipped[:NUM_NAMED])}; repair or replace them"
            )
        for name, value in self.scores(self.results).items():
            self.log(f"{split}/{name}", value, rank_zero_only=False)

    def _gather_results(self) -> list[Result]:
        """The results of all ranks, in their order."""
        if self.trainer.world_size == 1:
            return self.results
        gathered: list[list[Result]] = [[] for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather_object(gathered, self.results)
        return [result for results in gathered for result in results]

    def _note_skipped(self, batch: Any) -> None:
        """Count used and skipped utterances.

        Raises:
            ValueError: more than data.max_bad_share of them were skipped.
        """
        # batches of text are plain lists
        skipped = getattr(batch, "skipped", [])
        self.skipped += skipped
        self.num_seen += len(skipped) + len(batch)
        limit = self.config.data.max_bad_share
        if self.num_seen >= MIN_SEEN and len(self.skipped) > limit * self.num_seen:
            raise ValueError(
                f"{len(self.skipped)} of {self.num_seen} utterances could not be used, more than "
                f"data.max_bad_share={limit}: {'; '.join(self.skipped[:NUM_NAMED])}; "
                "repair or remove them, or raise data.max_bad_share"
            )


def trained_parts(config: Config) -> set[str]:
    """Return the parts that a stage trains."""
    # the CTC head of stage encoder is no part that a recipe names
    return {*config.stage.trained, "ctc"}


def freeze(model: nn.Module, config: Config) -> None:
    """Let only the trained parts have gradients; with adapters, only these in their part.

    In a frozen pretrained language model, the rows of new markers have gradients.
    """
    adapted_parts = {part_of(name) for name, _ in model.named_parameters() if is_adapter(name)}
    parts = trained_parts(config)
    for name, parameter in model.named_parameters():
        part = part_of(name)
        is_frozen_base = part in adapted_parts and not is_adapter(name)
        is_trained = part in parts and not is_frozen_base
        parameter.requires_grad_(is_trained or is_marker_row(name))
    if not config.lora.shared_trainable:
        for parameter in in_common(model, config.lora):
            parameter.requires_grad_(False)
