"""Dialogues of words with times: the labels of dialogues, words in their time, no sound."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.loading import load_config, override
from configs.schema import Config
from datamodules.corpora import Corpora
from datamodules.dialogue.dialogues import Dialogue, open_dialogues
from datamodules.dialogue.text_dialogues import UNHEARD, open_text_dialogues, timed_words
from datamodules.dialogue.turns import RULES, Slices
from duplexmamba.text.tokenizer import SILENCE
from lightning_modules.assembly import build
from lightning_modules.dialogue import DialogueStage
from tests.conftest import SMALL_SIZES, TINY
from tests.small_runs import SHORT

STREAMING = [TINY[0], "configs/stage/streaming.yaml"]
TRAINED = "stage.trained=[connector,lm]"


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config([*STREAMING, *SMALL_SIZES])


@pytest.fixture(scope="module")
def dialogues(config: Config) -> list[Dialogue]:
    texts = open_text_dialogues(config)
    return [texts[index] for index in range(40)]


def test_they_follow_the_rules_of_dialogues(config: Config, dialogues: list[Dialogue]) -> None:
    slices = Slices.of(config)
    for dialogue in dialogues:
        assert len(dialogue.samples) == slices.length * len(dialogue.labels)
        assert not dialogue.samples.any()
        assert dialogue.labels == slices.labels(dialogue.turns, len(dialogue.labels))
        for answer in dialogue.answers:
            assert dialogue.labels[answer.begin] == "response"
    kinds = {turn.kind for dialogue in dialogues for turn in dialogue.turns}
    assert {"question", "paused_question", "interruption", "talking_to_other"} <= kinds


def test_events_and_times_are_distributed_as_with_sound(
    config: Config, dialogues: list[Dialogue]
) -> None:
    spoken = [open_dialogues(config, "train", 1)[index] for index in range(12)]
    for dialogue, text in zip(spoken, dialogues, strict=False):
        assert [turn.kind for turn in dialogue.turns] == [turn.kind for turn in text.turns]

    def questions_s(some: list[Dialogue]) -> float:
        turns = itertools.chain.from_iterable(dialogue.turns for dialogue in some)
        return float(np.mean([t.end_s - t.start_s for t in turns if t.kind == "question"]))

    assert questions_s(dialogues) == pytest.approx(questions_s(spoken), rel=0.25)


def test_words_lie_within_their_turns_and_outside_pauses(dialogues: list[Dialogue]) -> None:
    num_paused = 0
    for dialogue in dialogues:
        words = timed_words(dialogue)
        heard = [turn.text for turn in dialogue.turns if turn.kind not in UNHEARD]
        assert " ".join(word.text for word in words) == " ".join(heard)
        for word in words:
            turn = dialogue.turns[word.turn]
            assert turn.start_s < word.end_s <= turn.end_s + 1e-9
            if turn.pause_s is not None:
                num_paused += 1
                assert not turn.pause_s[0] + 1e-9 < word.end_s < turn.pause_s[1]
    assert num_paused > 5


@pytest.fixture(scope="module")
def module(config: Config, tmp_path_factory: pytest.TempPathFactory) -> DialogueStage:
    trained = override(config, [TRAINED, "stage.init={}", "stage.texts_per_dialogue=2"])
    module, _ = build(trained, Corpora(trained), {}, tmp_path_factory.mktemp("run"))
    assert isinstance(module, DialogueStage)
    return module


def test_ids_take_the_places_of_embeddings_in_order(
    config: Config, dialogues: list[Dialogue], module: DialogueStage
) -> None:
    tokenizer = module.tokenizer
    [silence] = tokenizer.encode(SILENCE)
    slices = Slices.of(config)
    num_words = num_placed = 0
    for dialogue in dialogues:
        ids = module.ids_in_time(dialogue)
        per_slice, rest = divmod(len(ids), len(dialogue.labels))
        assert rest == 0
        placed = [each for each in ids if each != silence]
        words = [tokenizer.encode_words(word.text) for word in timed_words(dialogue)]
        spoken = list(itertools.chain.from_iterable(words))
        remaining = iter(spoken)
        assert all(each in remaining for each in placed), "a subsequence: none is moved or added"
        num_words += len(spoken)
        num_placed += len(placed)
        for turn in dialogue.turns:
            if RULES[turn.kind].answered:
                # nothing of a question comes after the decision to respond to it
                endpoint = slices.endpoint_slice(round(turn.end_s * slices.rate_hz))
                assert ids[per_slice * (endpoint + 1)] == silence
    assert num_placed > 0.9 * num_words


@pytest.mark.parametrize("kind", ["fork", "multiplex"])
def test_dialogues_of_words_are_trained_beside_those_of_speech(kind: str, tmp_path: Path) -> None:
    args = [*STREAMING, *SHORT, TRAINED, "stage.init={}", f"duplex.kind={kind}"]
    config = load_config([*args, "stage.texts_per_dialogue=2", "encoder.dropout=0"])
    module, data = build(config, Corpora(config), {}, tmp_path)
    assert isinstance(module, DialogueStage)
    batch = next(iter(data.train_dataloader()))
    counts = []
    original = module.text_dialogue_loss

    def record(num_dialogues: int) -> torch.Tensor:
        counts.append(num_dialogues)
        return original(num_dialogues)

    module.text_dialogue_loss = record  # type: ignore[method-assign]
    module.train().training_loss(batch).backward()
    assert counts == [2 * config.data.batch_dialogues]
    module.eval().training_loss(batch)
    assert len(counts) == 1, "the loss of the validation is that of speech"
    first, second = original(2).detach(), original(2).detach()
    assert first != second and first.isfinite() and second.isfinite()


@pytest.mark.parametrize(("overrides", "message"), [
    ([*STREAMING, "stage.trained=[connector]", "stage.texts_per_dialogue=1"], "frozen; add lm"),
    ([*STREAMING, TRAINED, "stage.texts_per_dialogue=-1"], "texts_per_dialogue=-1: cannot be neg"),
    ([TINY[0], "configs/stage/instruct.yaml", "stage.texts_per_dialogue=1"], "there are no dialog"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(overrides)
