"""Language models of transformers in training and in live sessions."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from configs.loading import load_config, override
from configs.schema import Config
from datamodules.corpora import Corpora
from duplexmamba.duplex.fork import ForkSession
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.losses import token_loss
from duplexmamba.text.tokenizer import BPE_SIZE, Tokenizer
from lightning_modules.assembly import build
from lightning_modules.branch_targets import BranchTargets
from lightning_modules.dialogue import DialogueStage
from lightning_modules.fork_schedule import ScheduledSegment, flatten, share_prefixes
from lightning_modules.lm import LMStage
from lightning_modules.sessions import open_model
from lightning_modules.trainer.activation_checkpointing import checkpoint_activations
from lightning_modules.trainer.averaging import WeightAveraging
from lightning_modules.trainer.callbacks import LAST, ResumeCheckpoint
from lightning_modules.trainer.checkpoint import StageCheckpoint
from lightning_modules.trainer.resume import resume_point
from lightning_modules.trainer.run import build_trainer, fit
from tests.conftest import SMALL_SIZES, TINY
from tests.pretrained_models import D_MODEL, SETTINGS, save_tiny
from tests.small_runs import SHORT
from tests.test_branch_targets import LENGTH, SCRIPTS, Answers, dialogue_of
from train import main

LM_STAGE = "configs/stage/lm.yaml"
FEW = [
    "trainer.valid_every_steps=4",
    "data.valid_size=1",
    "data.test_size=1",
    "data.batch_texts=2",
]
"""Settings by which scores take little time."""
TRAINED = ["granitemoehybrid", "mamba"]


def overrides_of(folder: Path) -> list[str]:
    """Settings of a model in a folder, with room for the tokens of the trained tokenizer."""
    return [
        "lm.kind=pretrained",
        f"lm.pretrained={folder}",
        f"lm.d_model={D_MODEL}",
        f"lm.vocab_size={BPE_SIZE}",
    ]


@pytest.fixture(params=TRAINED)
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """A configuration with a tiny pretrained model."""
    save_tiny(tmp_path, request.param)
    duplex = [f"duplex.max_tokens={LENGTH}", "duplex.tokens_per_s=4", "duplex.min_slices=2"]
    return load_config([*TINY, *SMALL_SIZES, *duplex, *overrides_of(tmp_path)])


def test_forks_in_training_equal_separate_branches(small: Config) -> None:
    """Values and gradients, of speech and of weights; with checkpointing as well."""
    tokenizer = Tokenizer.train(["some words to be said"] * 3)
    model = SpeechLM(small.model).eval()
    dialogues = [dialogue_of(script, 3200) for script in SCRIPTS[:1]]
    stage = DialogueStage(small, model, Answers(tokenizer, [[9] * LENGTH] * 9))
    model.lm.requires_grad_()
    targets = BranchTargets(stage.tokenizer, small.duplex, 1)
    segments = flatten([targets.segments(each, random.Random(1)) for each in dialogues])
    lengths = torch.tensor([len(dialogue.labels) for dialogue in dialogues])
    embeddings = torch.randn(1, int(lengths.max()), D_MODEL)
    weights = [*model.lm.parameters()]

    def loss_and_gradients(segments: list[ScheduledSegment]) -> list[Tensor]:
        speech = embeddings.clone().requires_grad_()
        hidden, labels = stage.run_segments(segments, Padded(speech, lengths))
        loss = token_loss(model.lm.logits(hidden), labels, 0.0)
        gradients = torch.autograd.grad(loss, [speech, *weights], materialize_grads=True)
        return [loss.detach(), *gradients]

    separate = loss_and_gradients(segments)
    shared = loss_and_gradients(share_prefixes(segments))
    checkpoint_activations(model)
    recomputed = loss_and_gradients(share_prefixes(segments))
    for result, expected in zip([*shared, *recomputed], [*separate, *separate], strict=True):
        scale = expected.abs().max().clamp(min=1e-3)
        torch.testing.assert_close(result / scale, expected / scale, atol=1e-4, rtol=1e-4)


@pytest.mark.timeout(300)
def test_a_run_trains_is_scored_and_talks(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    reference = save_tiny(tmp_path / "model", "granitemoehybrid")
    runs = tmp_path / "runs"
    words = [*SHORT, f"run.dir={runs}", *overrides_of(tmp_path / "model")]
    summary = main([TINY[0], "configs/stage/instruct.yaml", *words])
    assert 0 <= summary["test/exact_match"] <= 1
    [asr] = runs.glob("asr-*/checkpoint.pt")
    [instruct] = runs.glob("instruct-*/checkpoint.pt")
    before = StageCheckpoint.load(asr).weights
    checkpoint = StageCheckpoint.load(instruct)
    assert checkpoint.tokenizer is not None
    # frozen in stage asr, but for the rows of the markers
    markers = checkpoint.tokenizer.turn_state_ids
    rows = {
        # the prompt has one of them; the output matrix competes with all
        "model.embed_tokens.weight": [markers["response"]],
        "lm_head.weight": sorted(markers.values()),
    }
    for name, weight in reference.state_dict().items():
        now = before[f"lm.model.{name}"]
        is_changed = (now[: len(weight)] != weight).reshape(len(weight), -1).any(1)
        changed = is_changed.nonzero().flatten().tolist()
        assert changed == rows.get(name, [])
    name = "lm.model.model.layers.0.mamba.in_proj.weight"
    assert not torch.equal(before[name], checkpoint.weights[name])
    config = override(load_config([*TINY, *words]), ["duplex.min_slices=1"])
    assert_talks(open_model(checkpoint, config), checkpoint.tokenizer, config, num_slices=5)


def assert_talks(model: SpeechLM, tokenizer: Tokenizer, config: Config, num_slices: int) -> None:
    """A live session classifies the slices alike, however the audio is cut."""
    audio = 0.1 * torch.randn(num_slices * 3200, generator=torch.Generator().manual_seed(0))
    whole = ForkSession(model, tokenizer, config.duplex).push(audio)
    session = ForkSession(model, tokenizer, config.duplex)
    pieces = [event for part in audio.split(1777) for event in session.push(part)]
    assert len(whole) == num_slices
    assert [event.state for event in whole] == [event.state for event in pieces]
    for event, expected in zip(pieces, whole, strict=True):
        assert event.probabilities == pytest.approx(expected.probabilities, abs=1e-4)


class Killed(Exception):
    """The end of a training that was killed."""


class KillAt(Callback):
    """Ends a training before an update."""

    def __init__(self, update: int | None):
        self.update = update

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Raise where the update is due."""
        if trainer.global_step == self.update:
            raise Killed


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpora, str]:
    """The data of stage lm and a tokenizer, which no language model changes."""
    corpora = Corpora(load_config([TINY[0], LM_STAGE, *SHORT, *FEW]))
    return corpora, Tokenizer.train(corpora.training_texts()).to_json()


def train_lm(config: Config, folder: Path, corpora: Corpora, kill_at: int | None) -> LMStage:
    """Train stage lm, or continue a training that was killed."""
    module, data = build(config, corpora, {}, folder)
    assert isinstance(module, LMStage)
    callbacks = [KillAt(kill_at), ResumeCheckpoint(folder / LAST, 0), WeightAveraging(config)]
    fit(build_trainer(config, folder, callbacks), module, data, folder)
    return module


@pytest.mark.parametrize("name", SETTINGS)
def test_every_architecture_trains_resumes_and_talks(
    name: str, tmp_path: Path, shared: tuple[Corpora, str]
) -> None:
    """Stage lm, which has no audio, whole and in two parts; then a session with its weights."""
    corpora, tokenizer = shared
    reference = save_tiny(tmp_path / "model", name)
    config = load_config([TINY[0], LM_STAGE, *SHORT, *FEW, *overrides_of(tmp_path / "model")])
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tokenizer.json").write_text(tokenizer)
    whole = train_lm(config, tmp_path / "whole", corpora, None)
    with pytest.raises(Killed):
        train_lm(config, tmp_path / "parts", corpora, 2)
    assert resume_point(tmp_path / "parts") is not None
    resumed = train_lm(config, tmp_path / "parts", corpora, None)
    weights = resumed.model.state_dict()
    for key, weight in whole.model.state_dict().items():
        assert torch.equal(weights[key], weight), key
    # all layers have learnt
    for key, weight in reference.state_dict().items():
        if weight.dim() == 2 and "embed" not in key and "lm_head" not in key:
            assert not torch.equal(weights[f"lm.model.{key}"], weight), key
    model = SpeechLM(config.model).eval()
    model.lm.load_state_dict(resumed.model.lm.state_dict())
    live = override(config, ["duplex.min_slices=1"])
    assert_talks(model, resumed.tokenizer, live, num_slices=2)
