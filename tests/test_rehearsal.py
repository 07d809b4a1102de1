"""Texts beside utterances (stage.texts_per_utterance): drawn anew, trained in training alone."""

from pathlib import Path

import pytest
import torch

from configs.loading import load_config, override
from datamodules.batching import collate
from datamodules.corpora import Corpora
from duplexmamba.models.timing import FrameTiming
from lightning_modules import speech
from lightning_modules.assembly import build
from lightning_modules.speech import SpeechStage
from tests.conftest import SMALL_SIZES, TINY
from tests.small_runs import SHORT

INSTRUCT = [TINY[0], "configs/stage/instruct.yaml"]
TEXTS = "stage.texts_per_utterance=2"


@pytest.fixture
def module(tmp_path: Path) -> SpeechStage:
    config = load_config([*INSTRUCT, *SMALL_SIZES, TEXTS, "stage.init={}"])
    module, _ = build(config, Corpora(config), {}, tmp_path)
    assert isinstance(module, SpeechStage)
    return module


def test_texts_are_drawn_anew_as_often_as_set(
    module: SpeechStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = module.config
    stream = Corpora(config).stream
    batch = collate(
        [stream[0], stream[1], stream[2]], FrameTiming.of(config.model).samples_per_token
    )
    drawn: list[list[tuple[str, str]]] = []
    original = speech.draw_examples

    def record(pairs, *args):
        drawn.append(pairs)
        return original(pairs, *args)

    monkeypatch.setattr(speech, "draw_examples", record)
    for _ in range(3):
        module.train()
        module.training_loss(batch)
    assert [len(pairs) for pairs in drawn] == [6, 6, 6]
    texts = [text for pairs in drawn for text, _ in pairs]
    assert len(set(texts)) > 15
    answers = [answer for pairs in drawn for _, answer in pairs]
    # stage.answer_share is 0.8
    assert 5 < sum(map(bool, answers)) < 18

    module.eval()
    module.training_loss(batch)
    assert len(drawn) == 3, "the loss of the validation is that of speech"


def test_the_loss_of_texts_is_a_part_of_the_whole(
    module: SpeechStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = module.config
    stream = Corpora(config).stream
    batch = collate([stream[0], stream[1]], FrameTiming.of(config.model).samples_per_token)
    parts: list[torch.Tensor] = []
    original = module.rehearsal_loss

    def record(num_utterances: int) -> torch.Tensor:
        parts.append(original(num_utterances))
        return parts[-1]

    monkeypatch.setattr(module, "rehearsal_loss", record)
    torch.manual_seed(3)
    with_texts = module.train().training_loss(batch).detach()
    module.config = override(config, ["stage.texts_per_utterance=0"])
    torch.manual_seed(3)
    without = module.training_loss(batch).detach()
    [texts] = parts
    assert float(texts.detach()) > 1
    torch.testing.assert_close(with_texts - without, texts.detach(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("stage", ["state", "streaming"])
def test_dialogues_train_texts_with_their_utterances(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = [TINY[0], f"configs/stage/{stage}.yaml", *SHORT, "stage.init={}"]
    args += ["stage.trained=[connector,lm]", "stage.utterances_per_dialogue=3"]
    config = load_config([*args, TEXTS])
    module, data = build(config, Corpora(config), {}, tmp_path)
    num_utterances = []
    monkeypatch.setattr(
        module, "rehearsal_loss", lambda n: num_utterances.append(n) or torch.zeros(())
    )
    module.train().training_loss(next(iter(data.train_dataloader())))
    assert num_utterances == [3 * config.data.batch_dialogues]


@pytest.mark.parametrize(("overrides", "message"), [
    ([*INSTRUCT, "stage.texts_per_utterance=-1"], "texts_per_utterance=-1: cannot be negative"),
    ([TINY[0], "configs/stage/asr.yaml", TEXTS], "which is frozen; add lm"),
    ([TINY[0], "configs/stage/encoder.yaml", TEXTS], "stage.name=encoder: only a stage on speech"),
    ([TINY[0], "configs/stage/lm.yaml", TEXTS], "stage.name=lm: only a stage on speech"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(overrides)
