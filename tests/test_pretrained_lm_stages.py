"""Language models of transformers in training and in live sessions."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from configs.loading import load_config, override
from configs.schema import Config
from duplexmamba.duplex.fork import ForkSession
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.losses import token_loss
from duplexmamba.text.tokenizer import BPE_SIZE, Tokenizer
from lightning_modules.branch_targets import BranchTargets
from lightning_modules.dialogue import DialogueStage
from lightning_modules.fork_schedule import ScheduledSegment, flatten, share_prefixes
from lightning_modules.lm import LMStage, TextBatch
from lightning_modules.sessions import open_model
from lightning_modules.trainer.activation_checkpointing import checkpoint_activations
from lightning_modules.trainer.checkpoint import StageCheckpoint, load_parts
from tests.conftest import SMALL_SIZES, TINY
from tests.pretrained_models import D_MODEL, SETTINGS, save_tiny
from tests.small_runs import SHORT
from tests.test_branch_targets import LENGTH, SCRIPTS, Answers, dialogue_of
from train import main

EMBEDDINGS = ("model.embed_tokens", "lm_head")
FEW = [
    "trainer.valid_every_steps=4",
    "trainer.checkpoint_every_s=0",
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
    markers = sorted(checkpoint.tokenizer.turn_state_ids.values())
    for name, weight in reference.state_dict().items():
        now = before[f"lm.model.{name}"]
        changed = (now[: len(weight)] != weight).flatten(1).any(1).nonzero().flatten().tolist()
        assert changed == (markers if name.startswith(EMBEDDINGS) else [])
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


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Let trainings of stage lm end before an update; None: no longer."""
    training_loss = LMStage.training_loss

    def kill(update: int | None) -> None:
        def loss(stage: LMStage, batch: TextBatch) -> Tensor:
            if stage.global_step == update:
                raise Killed
            return training_loss(stage, batch)

        monkeypatch.setattr(LMStage, "training_loss", loss)

    return kill


@pytest.mark.parametrize("name", SETTINGS)
def test_every_architecture_trains_resumes_and_talks(
    name: str, tmp_path: Path, killed_at: Callable[[int | None], None]
) -> None:
    """Stage lm, which has no audio, whole and in two parts; then a session with its weights."""
    reference = save_tiny(tmp_path / "model", name)
    words = [*SHORT, *FEW, *overrides_of(tmp_path / "model")]
    args = [TINY[0], "configs/stage/lm.yaml", *words]
    main([*args, f"run.dir={tmp_path}/whole"])
    killed_at(2)
    with pytest.raises(Killed):
        main([*args, f"run.dir={tmp_path}/parts"])
    killed_at(None)
    main([*args, f"run.dir={tmp_path}/parts"])
    [whole] = (tmp_path / "whole").glob("lm-*/checkpoint.pt")
    [parts] = (tmp_path / "parts").glob("lm-*/checkpoint.pt")
    checkpoint = StageCheckpoint.load(parts)
    for key, weight in StageCheckpoint.load(whole).weights.items():
        assert torch.equal(checkpoint.weights[key], weight), key
    # all layers learn
    for key, weight in reference.state_dict().items():
        if weight.dim() == 2 and "embed" not in key and "lm_head" not in key:
            assert not torch.equal(checkpoint.weights[f"lm.model.{key}"], weight), key
    config = override(load_config([*TINY, *words]), ["duplex.min_slices=1"])
    model = SpeechLM(config.model).eval()
    load_parts(model, checkpoint, ["lm"], "lm")
    assert checkpoint.tokenizer is not None
    assert_talks(model, checkpoint.tokenizer, config, num_slices=2)
