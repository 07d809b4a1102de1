"""Numbers that went bad: updates are skipped and counted, a diverged training ends with a sentence."""

import math
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from configs.loading import load_config, override
from configs.schema import Config
from duplexmamba.models.speech_lm import SpeechEncoder
from lightning_modules.finite import MAX_SKIPPED_UPDATES
from lightning_modules.results import TranscriptResult
from lightning_modules.stage import StageModule
from lightning_modules.trainer.checkpoint import StageCheckpoint
from tests.conftest import SMALL_SIZES, TINY

WEIGHT = 3.0


class Batch(list):
    """Factors of the loss; their places are the ids of utterances."""

    def to(self, device: torch.device) -> "Batch":
        return self


class Factors(StageModule):
    """A loss that is a weight times the mean of the batch's factors."""

    def training_loss(self, batch: Batch) -> Tensor:
        return self.model.part.weight.sum() * sum(batch) / len(batch)

    def validate(self, batch: Batch) -> list[TranscriptResult]:
        return [TranscriptResult("a", "a")]

    def scores(self, results: object) -> dict[str, float]:
        return {"wer": 0.0}


def module_of(config: Config) -> Factors:
    model = nn.Module()
    model.part = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.part.weight.fill_(WEIGHT)
    config = override(config, ["optim.warmup_steps=1", "optim.lr=0.01", "optim.weight_decay=0"])
    module = Factors(config, model, None)
    model.part.weight.requires_grad_(True)
    return module


def fit(
    module: Factors, factors: list[list[float]], accumulate: int = 1, **settings: object
) -> None:
    trainer = L.Trainer(
        max_steps=len(factors) // accumulate,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )
    batches = [Batch(row) for row in factors]
    valid = [Batch([1.0]), Batch([settings and math.nan or 1.0])]
    loader = torch.utils.data.DataLoader(batches, batch_size=None, collate_fn=lambda x: x)
    trainer.fit(module, loader, torch.utils.data.DataLoader(valid, batch_size=None))


@pytest.fixture
def module(config: Config) -> Factors:
    return module_of(config)


pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"
)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_leaves_the_weights_as_they_are(
    bad: float, config: Config, capsys: pytest.CaptureFixture
) -> None:
    kept = module_of(config)
    fit(kept, [[1.0], [1.0]])
    skipped = module_of(config)
    fit(skipped, [[1.0], [bad], [1.0]])
    assert skipped.model.part.weight.isfinite().all()
    assert skipped.updates.num_skipped == 1 and skipped.updates.num_in_a_row == 0
    out = capsys.readouterr().out
    assert "update 2, learning rate" in out and f"its utterances: {bad}" in out
    skipped.check_finite()


def test_one_bad_batch_of_an_update_skips_the_whole_update(module: Factors) -> None:
    fit(module, [[1.0], [1.0], [math.nan], [1.0], [1.0], [1.0]], accumulate=2)
    assert module.updates.num_skipped == 1 and module.model.part.weight.isfinite().all()


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_training_stops_after_skipped_updates_in_a_row(module: Factors, clip: float) -> None:
    with pytest.raises(ValueError, match=r"optim.lr=0.01") as caught:
        fit(module, [[1.0]] + [[math.nan]] * 20, gradient_clip_val=clip, limit_val_batches=0)
    text = str(caught.value)
    assert f"update {1 + MAX_SKIPPED_UPDATES}," in text and "its utterances: nan" in text
    assert "lower optim.lr" in text and module.model.part.weight.isfinite().all()


def test_a_training_whose_last_update_was_skipped_is_not_saved(module: Factors) -> None:
    fit(module, [[1.0], [math.nan]])
    with pytest.raises(ValueError, match="the last 1 updates .* nothing is saved"):
        module.check_finite()


def test_a_weight_that_is_not_finite_is_named(module: Factors) -> None:
    with torch.no_grad():
        module.model.part.weight.fill_(math.inf)
    with pytest.raises(ValueError, match="weight part.weight is not finite"):
        module.check_finite()


def test_a_validation_without_any_finite_loss_stops_the_training(module: Factors) -> None:
    module._valid_losses = [(["a"], torch.tensor(math.nan)), (["b"], torch.tensor(math.inf))]
    decide = SimpleNamespace(reduce_boolean_decision=lambda value, all: value)
    module._trainer = SimpleNamespace(
        strategy=decide,
        global_step=7,
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.5}])],
    )
    with pytest.raises(ValueError, match="update 7, learning rate 0.5 .*utterances: a, b"):
        module._check_valid_losses()


def test_single_batches_without_a_finite_loss_are_named(
    module: Factors, capsys: pytest.CaptureFixture
) -> None:
    fit(module, [[1.0], [1.0]], val_check_interval=2)
    assert "in 1 of 2 batches; utterances: nan" in capsys.readouterr().out


def test_a_diverged_checkpoint_is_not_used(tmp_path: Path) -> None:
    config = load_config([*TINY, *SMALL_SIZES])
    weights = SpeechEncoder(config.model).state_dict()
    name = next(name for name in weights if name.startswith("encoder."))
    weights[name].view(-1)[0] = math.nan
    StageCheckpoint(config, None, weights).save(tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=f"weight {name} is not finite, its training has diverged"):
        StageCheckpoint.load(tmp_path)
