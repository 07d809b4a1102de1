"""The manifest of conversations: written, read, and every problem named with its line."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.conversations.conversation import Side, problem_of
from datamodules.conversations.manifest import (
    MANIFEST,
    read_conversations,
    to_record,
    write_conversations,
)
from datamodules.conversations.splits import assign_splits
from datamodules.sources.audio_sources import ParquetSource, TarSource
from tests.conversations import conversation, said
from tests.corpora import write

TURNS = (
    said("user", 1.0, 2.0, "what is this", kind="question", answered=True, speaker="ann"),
    said("agent", 2.4, 4.0, "A lamp.", kind="answer", to=0, label="Normal Turn"),
    said("user", 5.0, 6.0, "uh so", pauses=((5.4, 5.7),), words=(("uh", 5.0, 5.4),)),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    stored = [
        conversation(*TURNS, split="train", excluded=((3.0, 3.5),)),
        conversation(id="tar", user=Side(TarSource("a.tar", "x.wav", 512, 90), 1, 2.5), agent=None),
        conversation(id="table", user=Side(ParquetSource("a.parquet", 0, 3, "audio"), None)),
    ]
    write_conversations(stored, tmp_path / MANIFEST)
    read, skipped = read_conversations(tmp_path)
    absolute = Path("c.wav").absolute()
    stored[0] = dataclasses.replace(stored[0], user=Side(absolute, 0), agent=Side(absolute, 1))
    stored[2] = dataclasses.replace(stored[2], agent=Side(absolute, 1))
    assert read == stored and not skipped


def test_paths_are_relative_to_the_manifest(tmp_path: Path) -> None:
    record = to_record(conversation(*TURNS))
    record["user"]["path"] = "audio/c.wav"
    path = write(tmp_path / "m.jsonl", json.dumps(record))
    assert read_conversations(path)[0][0].user.audio == tmp_path / "audio/c.wav"


PROBLEMS: list[tuple[dict[str, Any], str]] = [
    ({"excluding": []}, "the conversation has an unknown field excluding; did you mean excluded?"),
    ({"user": None}, "user=None must be an object with path and channel; add it"),
    ({"user": {"path": "a.wav", "channel": "left"}}, "user.channel='left' must be a number from 0"),
    ({"split": "dev"}, "split='dev' is none of train, valid, test"),
    ({"duration_s": 0.0}, "duration_s=0 must be over 0"),
    ({"duration_s": None}, "duration_s=None must be a number of seconds"),
    ({"excluded": [[2, 1]]}, r"excluded \[2, 1\] must end after it begins"),
    ({"turns": [{"who": "me"}]}, "turn 0: who='me' must be user or agent"),
]
TURN_PROBLEMS: list[tuple[dict[str, Any], str]] = [
    ({"end_s": 1.0}, r"turn 0 \(user\): end_s=1 must be after start_s=1"),
    ({"end_s": 9.0}, r"turn 0 \(user\): \[1, 9\] lies outside the audio of 8 s"),
    ({"end_s": 5.5}, r"turns of the user overlap: \[1, 5.5\] and \[5, 6\]"),
    ({"kind": "questoin"}, "kind='questoin' is none of question, paused_question"),
    ({"kind": "answer"}, "kind='answer' is none of question"),
    ({"answered": "yes"}, "answered='yes' must be a bool or null"),
    ({"to": 1}, "to=1 must be the index of an earlier turn of the user"),
    ({"words": [["so", 1.0]]}, r"words must be a list of \[word, start_s, end_s\]"),
    ({"strat_s": 1.0}, "turn 0 has an unknown field strat_s; did you mean start_s?"),
]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *PROBLEMS,
        *[({"turns": change}, message) for change, message in TURN_PROBLEMS],
    ],
)
def test_problems_are_named_with_file_and_line(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    good = to_record(conversation(*TURNS))
    bad = json.loads(json.dumps(good)) | {"id": "bad"}
    if isinstance(change.get("turns"), dict):
        bad["turns"][0] |= change["turns"]
    else:
        bad |= change
    path = write(tmp_path / "m.jsonl", f"{json.dumps(good)}\n\n{json.dumps(bad)}\n")
    read, [skipped] = read_conversations(path)
    assert [item.id for item in read] == ["c-1"]
    assert skipped.detail.startswith(f"{path}, line 3: ")
    with pytest.raises(ValueError, match=message):
        raise ValueError(skipped.detail)


def test_an_id_occurs_once(tmp_path: Path) -> None:
    line = json.dumps(to_record(conversation(*TURNS)))
    path = write(tmp_path / "m.jsonl", f"{line}\n{line}\n")
    _, [skipped] = read_conversations(path)
    assert skipped.detail == f"{path}, line 2: id=c-1 is that of line 1; give each its own"


def test_a_manifest_that_is_not_jsonl_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", "{\n")
    with pytest.raises(ValueError, match="m.jsonl, line 1: not a JSON object"):
        read_conversations(path)


def test_sounds_that_may_overlap_do() -> None:
    noise = said("user", 1.5, 1.8, "", kind="noise")
    assert problem_of(conversation(*TURNS[:1], noise)) is None


def two_listeners(name: str, speakers: tuple[str, str]) -> list[Any]:
    turns = [said("user", 1.0, 2.0, speaker=speakers[0]), said("agent", 3.0, 4.0, to=None)]
    sides = [Side(Path(f"{name}.wav"), channel) for channel in (0, 1)]
    turns[1] = dataclasses.replace(turns[1], speaker=speakers[1])
    return [
        conversation(*turns, id=f"{name}-{n}", user=sides[n], agent=sides[1 - n]) for n in (0, 1)
    ]


def test_splits_share_neither_sound_nor_speaker() -> None:
    pairs = [two_listeners(str(n), (f"s{n // 2}", f"t{n}")) for n in range(40)]
    items = [item for pair in pairs for item in pair]
    assigned, [note] = assign_splits(items)
    assert "no valid and no test: held out of train, conversations with speakers" in note
    for group in ("train", "valid", "test"):
        inside = [item for item in assigned if item.split == group]
        others = [item for item in assigned if item.split != group]
        assert inside
        for names in (lambda item: item.speakers, lambda item: {item.user.audio}):
            assert not set().union(*map(names, inside)) & set().union(*map(names, others))


def test_recordings_are_held_out_where_speakers_connect_all() -> None:
    items = [item for n in range(40) for item in two_listeners(str(n), ("ann", f"t{n}"))]
    assigned, [note] = assign_splits(items)
    assert "single recordings, since speakers connect most of them" in note
    by_sound: dict[str, set[str | None]] = {}
    for item in assigned:
        by_sound.setdefault(str(item.user.audio), set()).add(item.split)
    assert all(len(splits) == 1 for splits in by_sound.values())
    assert {item.split for item in assigned} == {"train", "valid", "test"}


def test_given_splits_are_kept() -> None:
    items = [conversation(id=name, split=name) for name in ("train", "dev", "test")]
    assigned, notes = assign_splits(items)
    assert [item.split for item in assigned] == ["train", "valid", "test"] and not notes
