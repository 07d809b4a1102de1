"""Scores say of how many items they are, and leave none out in silence."""

import json
from pathlib import Path

import pytest

from configs.loading import load_config
from datamodules.corpora import Corpora
from evaluation.finished_run import open_run
from evaluation.voicebench.command import score_file
from evaluation.wer import alignment, scored_shares
from tests.conftest import TINY
from tests.corpora import sound, write


def corpora_of(path: Path) -> Corpora:
    config = load_config([*TINY, f"data.path={path}", "data.test_size=1"])
    corpora = Corpora(config, splits=[])
    corpora.score_whole(config)
    return corpora


def folder(root: Path) -> Path:
    for number in range(10):
        sound(root / f"{number}.wav", 1.0)
        write(root / f"{number}.txt", f"some words number {number}")
    return root


def test_a_folder_without_splits_is_scored_whole(tmp_path: Path) -> None:
    write(folder(tmp_path) / "empty.txt", "")
    sound(tmp_path / "empty.wav", 1.0)
    corpora = corpora_of(tmp_path)
    assert len(corpora.test) == 10
    first, second, third = scored_shares(corpora)
    assert "10 of 10 recorded utterances are scored" in first and "1 without text" in second
    assert "10 of 10 files have less than 16,000 Hz" in third


def test_the_test_split_of_a_manifest_is_scored_whole(tmp_path: Path) -> None:
    folder(tmp_path)
    rows = [
        {"audio": f"{n}.wav", "text": "some words", "split": "test" if n < 4 else "train"}
        for n in range(10)
    ]
    write(tmp_path / "manifest.jsonl", "\n".join(json.dumps(row) for row in rows))
    corpora = corpora_of(tmp_path)
    assert len(corpora.test) == 4 and "4 of 10" in scored_shares(corpora)[0]


def test_the_alignment_of_an_utterance() -> None:
    compared = alignment("Close the DOOR, please", "close a door")
    assert (compared["words"], compared["errors"]) == (4, 2)
    assert compared["alignment"] == [
        ["equal", "close", "close"],
        ["substitute", "the", "a"],
        ["equal", "door", "door"],
        ["delete", "please", ""],
    ]
    assert alignment("...", "a")["words"] == 0


@pytest.mark.parametrize("bad", ["null", "7", '["x"]'])
def test_answers_that_are_missing_or_null_count_as_wrong(tmp_path: Path, bad: str) -> None:
    items = {}
    lines = []
    for name, response in (("a", '"The answer is B."'), ("b", bad)):
        items[name] = {"prompt": name, "reference": "B", "id": name}
        lines.append(
            f'{{"item": "{name}", "prompt": "{name}", "reference": "B", "response": {response}}}'
        )
    file = write(tmp_path / "openbookqa.jsonl", "\n".join(lines))
    items["c"] = {"prompt": "c", "reference": "B", "id": "c"}
    known = score_file("openbookqa", file, items, None)
    assert known.num_responses == 1 and known.scores.official == pytest.approx(100 / 3)
    unknown = score_file("openbookqa", file, None, None)
    assert unknown.scores.strict == 50 and len(unknown.problems["broken"]) == 1


def test_a_run_that_cannot_be_written_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(__file__).parent / "data/first_version/state-tiny-bd042219"
    monkeypatch.setattr("os.access", lambda *args: False)
    with pytest.raises(ValueError, match="cannot be written; copy the run"):
        open_run(run, [])
