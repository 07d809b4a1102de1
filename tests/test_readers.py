"""Formats of corpora: each is detected and read, and its problems are counted and named."""

import dataclasses
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.sources import CORPUS_FORMATS
from datamodules.sources.corpus_manifest import ManifestCorpus, measure
from datamodules.sources.manifest_entry import Skipped
from datamodules.sources.readers import detect_format
from datamodules.sources.shards import expand
from tests import corpora
from tests.corpora import RATE_HZ, encoded, read_corpus, shard, write

SPLITS = ["train", "valid", "test"]
BUILDERS = {
    "mls": (
        corpora.mls,
        {f"10_20_00000{n}": text for n, text in ((1, "hello there"), (2, "it's me"))},
        SPLITS,
    ),
    "tedlium": (corpora.tedlium, {"Ann_2010-0.5-1.5": "hello there it's me"}, SPLITS),
    "commonvoice": (corpora.commonvoice, None, SPLITS),
    "gigaspeech": (
        corpora.gigaspeech,
        {
            "POD0_S0": "hello there",
            "POD0_S1": "big one",
            "POD0_S3": "developed",
            "POD0_S4": "tested",
        },
        [None, "valid", "test"],
    ),
    "manifest": (corpora.table, {"data/a.wav": "hello there"}, ["train"]),
    "duplexmamba": (corpora.duplexmamba, {"asr-19-198-0": "hello there"}, ["train"]),
    "folder": (corpora.sidecars, {f"{s}/a.wav": "hello there" for s in SPLITS}, SPLITS),
    "webdataset": (corpora.webdataset, {"000": "hello there", "001": "two"}, SPLITS),
    "shar": (corpora.shar, {"s0": "hello", "s1": "hello"}, SPLITS),
    "huggingface": (corpora.parquet, None, SPLITS),
}


def made(build: Callable[[Path], None], folder: Path) -> Path:
    if build is corpora.parquet:
        pytest.importorskip("pyarrow")
    build(folder)
    return folder


def reasons(skipped: list[Skipped]) -> dict[str, int]:
    return {
        reason: sum(s.reason == reason for s in skipped) for reason in {s.reason for s in skipped}
    }


@pytest.mark.parametrize("kind", BUILDERS)
def test_every_format_is_detected_and_read(kind: str, tmp_path: Path) -> None:
    build, texts, splits = BUILDERS[kind]
    root = made(build, tmp_path / "corpus")
    assert detect_format(root) == kind
    entries, _ = read_corpus(root)
    assert {e.split for e in entries} == set(splits)
    assert texts is None or {e.id: e.text for e in entries} == texts
    assert entries == read_corpus(root, kind=kind)[0]
    measured, _ = measure(entries, 0.1, 5.0)
    corpus = ManifestCorpus(measured, RATE_HZ, 0.1, 5.0)
    assert len(corpus) > 0
    for i in range(len(corpus)):
        assert len(corpus[i].samples) / RATE_HZ == pytest.approx(corpus.duration_s(i), abs=0.02)


def test_common_voice_reads_the_configured_tables(tmp_path: Path) -> None:
    corpora.commonvoice(tmp_path)
    entries, skipped = read_corpus(tmp_path)
    assert [(e.id, e.text, e.split, e.duration_s, e.speaker) for e in entries] == [
        ("clips/1.mp3", "he said hi dev", "valid", None, "ann"),
        ("clips/2.mp3", "he said hi test", "test", None, "ann"),
        ("clips/0.mp3", "he said hi train", "train", 0.99, "ann"),
    ]
    assert reasons(skipped) == {"without text": 3}
    [only], _ = read_corpus(tmp_path, split={"train": "validated"})
    assert (only.text, only.split) == ("he said hi validated", "train")
    with pytest.raises(ValueError, match="other.tsv does not exist"):
        read_corpus(tmp_path, split={"train": "other"})
    write(tmp_path / "cv-corpus-17.0/de/clips/a.mp3", "")
    with pytest.raises(ValueError, match="clips of 2 languages; give the folder of one"):
        read_corpus(tmp_path)


def test_gigaspeech_reads_the_configured_subset(tmp_path: Path) -> None:
    corpora.gigaspeech(tmp_path)
    entries, skipped = read_corpus(tmp_path, split={"train": "M", "test": "dev+test"})
    assert [(e.id, e.split) for e in entries] == [
        ("POD0_S0", "train"),
        ("POD0_S3", "test"),
        ("POD0_S4", "test"),
    ]
    assert (entries[0].start_s, entries[0].duration_s, entries[0].speaker) == (0.0, 1.0, "")
    assert reasons(skipped) == {
        "without text": 1,
        "in a transcript but without audio": 1,
        "of split 'other', which data.sources does not ask for": 1,
    }


def test_tedlium_leaves_out_unscored_segments(tmp_path: Path) -> None:
    corpora.tedlium(tmp_path)
    _, skipped = read_corpus(tmp_path)
    assert reasons(skipped) == {"without text": 3, "in a transcript but without audio": 3}


def test_instructs2s_has_an_entry_for_each_spoken_turn(tmp_path: Path) -> None:
    corpora.instructs2s(tmp_path)
    for path, kind in ((tmp_path / "instructs2s.json", "auto"), (tmp_path, "instructs2s")):
        entries, _ = read_corpus(path, kind=kind)
        assert [(e.id, e.text, e.answer, e.path.name) for e in entries] == [
            ("q0-0", "what is one and one", "Two.", "0-0.wav"),
            ("q0-2", "and two", "Four.", "0-1.wav"),
        ]


def test_duplexmamba_items_without_a_transcript_are_counted(tmp_path: Path) -> None:
    corpora.duplexmamba(tmp_path)
    assert reasons(read_corpus(tmp_path)[1]) == {
        "with a state or a response, but no transcript": 3,
        "in a transcript but without audio": 1,
    }


@pytest.mark.parametrize(
    ("task", "answers"),
    [("both", ["A.", "", "C."]), ("transcribe", [""] * 3), ("answer", ["A.", "C."])],
)
def test_parquet_answers_depend_on_the_task(task: str, answers: list[str], tmp_path: Path) -> None:
    entries, skipped = read_corpus(
        made(corpora.parquet, tmp_path), task=task, split={"train": "train"}
    )
    assert [e.answer for e in entries] == answers
    assert reasons(skipped).get("without an answer", 0) == (task == "answer")


def test_parquet_columns_can_be_configured_and_broken_sounds_are_named(tmp_path: Path) -> None:
    made(corpora.parquet, tmp_path)
    entries, _ = read_corpus(tmp_path, columns={"text": "answer"}, split={"test": "validation"})
    assert [(e.text, e.split) for e in entries] == [("a", "test"), ("c", "test"), ("d", "test")]
    measured, broken = measure(entries, 0.1, 5.0)
    assert [e.duration_s for e in measured] == [
        1.0,
        0.5,
    ] and "validation-00000-of-00001.parquet:1:0 is broken" in broken[0].detail
    with pytest.raises(
        ValueError, match=r"columns names wordz; its keys are answer, question, question_audio"
    ):
        read_corpus(tmp_path, columns={"speaker": "wordz"})


def test_a_data_set_with_a_card_is_opened_by_datasets(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    corpora.parquet(tmp_path / "a")
    card = (
        "---\nconfigs:\n- config_name: small\n  data_files:\n  - split: test\n    path: "
        "a/test*.parquet\n---\n"
    )
    write(tmp_path / "README.md", card)
    entries, _ = read_corpus(tmp_path, kind="huggingface", subset="small")
    assert {e.split for e in entries} == {"test"} and len(entries) == 3
    with pytest.raises(
        ValueError, match="cannot be opened by datasets.*check the name, the subset"
    ):
        read_corpus(tmp_path, kind="huggingface", subset="large")


def test_where_selects_rows(tmp_path: Path) -> None:
    rows = [{"audio": f"{n}.wav", "text": "hi", "corpus": "ab"[n % 2], "n": n} for n in range(4)]
    path = write(tmp_path / "m.jsonl", "".join(f"{row}\n".replace("'", '"') for row in rows))
    assert [e.id for e in read_corpus(path, where={"corpus": "b"})[0]] == ["1.wav", "3.wav"]
    assert [e.id for e in read_corpus(path, where={"corpus": "b", "n": "3"})[0]] == ["3.wav"]
    with pytest.raises(ValueError, match="where names corpora; its keys are"):
        read_corpus(path, where={"corpora": "b"})


def test_a_truncated_shard_is_read_up_to_its_end(tmp_path: Path) -> None:
    files = {
        f"{n}.{kind}": encoded(1.0) if kind == "flac" else b"word"
        for n in range(4)
        for kind in ("flac", "txt")
    }
    path = shard(tmp_path / "train-0.tar", files)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.5)])
    entries, skipped = read_corpus(path)
    assert 1 <= len(entries) < 4
    [cut] = [s for s in skipped if s.reason == "unusable"]
    assert f"{path} is broken or truncated after" in cut.detail
    whole = shard(tmp_path / "whole.tar", files)
    [first, *_], _ = read_corpus(whole)
    whole.write_bytes(whole.read_bytes()[:700])
    with pytest.raises(Exception, match="whole.tar:0.flac is cut off: "):
        ManifestCorpus([dataclasses.replace(first, duration_s=1.0)], RATE_HZ, 0.1, 5.0)[0]


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    made(corpora.parquet, tmp_path)
    write(tmp_path / "train-00000-of-00001.parquet", b"PAR1 and no more")
    entries, skipped = read_corpus(tmp_path)
    assert {e.split for e in entries} == {"valid", "test"}
    assert any("train-00000-of-00001.parquet is broken or truncated" in s.detail for s in skipped)


@pytest.mark.parametrize(
    ("more", "answer"),
    [({"kind": "gigaspeech"}, "holds no GigaSpeech.json"), ({}, "holds no speech")],
)
def test_a_folder_without_speech_is_rejected(
    more: dict[str, Any], answer: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=answer):
        read_corpus(tmp_path, **more)


@pytest.mark.parametrize(
    "name", ["train.parquet", "train/0000.parquet", "default/train-00000-of-00001.parquet"]
)
def test_the_name_of_a_parquet_file_gives_its_split(name: str, tmp_path: Path) -> None:
    file = made(corpora.parquet, tmp_path / "made") / "train-00000-of-00001.parquet"
    write(tmp_path / "moved" / name, file.read_bytes())
    assert {e.split for e in read_corpus(tmp_path / "moved", split={"train": "train"})[0]} == {
        "train"
    }


def test_shards_without_a_split_belong_to_train(tmp_path: Path) -> None:
    shard(tmp_path / "000000.tar", {"0.flac": encoded(1.0), "0.txt": b"word"})
    for split in ({}, {"train": "train"}):
        assert [e.split for e in read_corpus(tmp_path, split=split)[0]] == [None]
    with pytest.raises(ValueError, match="holds nothing usable"):
        read_corpus(tmp_path, split={"test": "test"})


def test_columns_are_rejected_for_a_format_without_columns(tmp_path: Path) -> None:
    corpora.mls(tmp_path)
    with pytest.raises(ValueError, match="of kind mls, which has no columns"):
        read_corpus(tmp_path, where={"speaker": "10"})


def test_number_ranges_are_expanded() -> None:
    assert expand("s-{008..010}.tar") == ["s-008.tar", "s-009.tar", "s-010.tar"]
    assert expand("{0..1}/{0..1}") == ["0/0", "0/1", "1/0", "1/1"] and expand("one.tar") == [
        "one.tar"
    ]


@pytest.mark.parametrize("name", CORPUS_FORMATS)
def test_every_registered_format_has_a_reader_and_a_line_in_the_docs(name: str) -> None:
    module, function = CORPUS_FORMATS[name].reader.split(".")
    assert callable(getattr(importlib.import_module(f"datamodules.sources.{module}"), function))
    table = (Path(__file__).parents[1] / "docs/data.md").read_text()
    assert re.search(rf"^\| `{name}` \|", table, re.MULTILINE)
