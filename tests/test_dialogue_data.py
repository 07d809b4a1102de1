"""Batches of dialogues: the same when a run resumes, similar in length, with single utterances."""

import itertools
import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile as sf
import torch

from configs.loading import load_config, override
from configs.schema import Config
from datamodules.corpora import Corpora
from datamodules.corpus import UnusableAudio, Utterance
from datamodules.dialogue.data import DialogueBatch, DialogueData, WithUtterances, collate_dialogues
from datamodules.dialogue.dialogues import Dialogue
from tests.conftest import SMALL_SIZES, TINY

pytest.importorskip("espeakng_loader")


@pytest.fixture
def config() -> Config:
    words = [
        "data.num_workers=0",
        "data.batch_dialogues=3",
        "stage.utterances_per_dialogue=2",
        "dialogue.events=[1,3]",
    ]
    return load_config([TINY[0], "configs/stage/streaming.yaml", *SMALL_SIZES, *words])


def batches(config: Config, count: int, start: int = 0) -> list[DialogueBatch]:
    data = DialogueData(config, Corpora(config))
    data.start_batch = start
    return list(itertools.islice(data.train_dataloader(), count))


def test_a_run_goes_on_with_the_batches_it_would_have_had(config: Config) -> None:
    whole = batches(config, 3)
    for one, other in zip(whole[1:], batches(config, 2, start=1), strict=True):
        assert [d.id for d in one.dialogues] == [d.id for d in other.dialogues]
        assert torch.equal(one.samples.values, other.samples.values)
        assert one.utterances.texts == other.utterances.texts


def test_a_batch_holds_dialogues_of_as_many_events_and_utterances_beside_each(
    config: Config,
) -> None:
    for batch in batches(config, 3):
        assert len(batch) == 3 and len(batch.utterances) == 6
        events = [len(dialogue.turns) for dialogue in batch.dialogues]
        assert max(events) - min(events) <= 1
        lengths = [len(dialogue.labels) * 3200 for dialogue in batch.dialogues]
        assert batch.samples.row_lengths().tolist() == lengths


def test_scored_dialogues_have_nothing_beside_them(config: Config) -> None:
    config = override(config, ["data.valid_dialogues=4"])
    with mock.patch("datamodules.dialogue.data.SCORED_BATCH_DIALOGUES", 3):
        found = list(DialogueData(config, Corpora(config)).val_dataloader())
    assert [len(batch) for batch in found] == [3, 1] and not any(
        len(batch.utterances) for batch in found
    )
    assert len({dialogue.id for batch in found for dialogue in batch.dialogues}) == 4


def test_each_rank_has_a_dialogue_to_score(config: Config) -> None:
    config = override(config, ["data.valid_dialogues=3", "data.test_dialogues=2"])
    data = DialogueData(config, Corpora(config))
    data.check_ranks(2)
    with pytest.raises(ValueError, match=r"data.test_dialogues: 2 to score for 3 ranks"):
        data.check_ranks(3)


class OneBroken:
    """Dialogues, of which one rests on a broken file."""

    def __init__(self, dialogues):
        self.dialogues = dialogues

    def __getitem__(self, index: int) -> Dialogue:
        if index == 1:
            raise UnusableAudio("7.wav is broken")
        return self.dialogues[index]


def test_a_dialogue_of_a_broken_file_is_left_out_and_named(config: Config) -> None:
    data = DialogueData(config, Corpora(config))
    items = WithUtterances(OneBroken(data.dialogues("train", 0)), data.corpora.stream, count=1)
    batch = collate_dialogues([items[i] for i in range(3)], 3200)
    assert len(batch) == 2 and len(batch.utterances) == 3 and batch.skipped == ["7.wav is broken"]
    assert all(isinstance(utterance, Utterance) for _, beside in [items[0]] for utterance in beside)


@pytest.mark.parametrize("answer", ["yes " * 7, ""])
def test_questions_are_recorded_ones_where_they_have_answers(
    config: Config, tmp_path: Path, answer: str
) -> None:
    rng, rows = np.random.default_rng(0), []
    for i in range(12):
        sf.write(tmp_path / f"{i}.wav", 0.1 * rng.standard_normal(16000), 16000)
        split = ("train", "valid", "test")[i % 3]
        rows.append(
            {
                "audio": f"{i}.wav",
                "text": "noise",
                "answer": answer,
                "speaker": f"s{i}",
                "split": split,
            }
        )
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = override(config, [f"data.path={tmp_path}"])
    dialogues = DialogueData(config, Corpora(config)).dialogues("train", 0)
    asked = {turn.text for i in range(4) for turn in dialogues[i].turns if turn.answer}
    assert asked and (asked == {"noise"}) == bool(answer)
