"""make data: problems of a corpus are counted and named, and the usable rest can be trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from configs.schema import Config
from datamodules.sources.audio_sources import ParquetSource, TarSource
from datamodules.sources.manifest_entry import UNUSABLE
from datamodules.sources.prepare import main, unknown_characters
from reporting.corpus_report import draw
from tests import corpora
from tests.conftest import TINY
from tests.corpora import RATE_HZ, open_corpora, sound, write


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """30 good files and 5 others."""
    folder = tmp_path / "speech"
    rows = [
        {"audio": sound(folder / f"{n}.wav", 0.5 + n / 10).name, "text": f"Café {n}"}
        for n in range(30)
    ]
    write(folder / "broken.flac", b"fLaC and no more")
    write(folder / "empty.wav", b"")
    sf.write(folder / "silent.wav", np.zeros(RATE_HZ), RATE_HZ)
    sound(folder / "long.wav", 25.0)
    rows += [
        {"audio": name, "text": "hello"}
        for name in ("broken.flac", "empty.wav", "silent.wav", "long.wav")
    ]
    rows += [{"audio": "0.wav", "text": None}]
    write(folder / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return folder


def prepare(name: str, root: Path, runs: Path, *more: str) -> Path:
    return main([name, str(root), *TINY, f"run.dir={runs}", *more])


def test_problems_are_counted_and_named(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = prepare("mine", speech, tmp_path / "runs", "data.max_bad_share=0.2")
    numbers = json.loads((folder / "report.json").read_text())
    assert sum(numbers[f"{split}/utterances"] for split in ("train", "valid", "test")) == 30
    assert sum(numbers[f"{split}/hours"] for split in ("train", "valid", "test")) == pytest.approx(
        58.5 / 3600, abs=2e-4
    )
    assert (
        numbers["unusable"] == 3 and numbers["left_out"] == 5 and numbers["unknown_characters"] == 0
    )
    page, screen = (folder / "report.html").read_text(), capsys.readouterr().out
    for text in (page, screen):
        assert (
            "1 over data.max_s=20" in text
            and "1 without text" in text
            and "é (30)" in text
            and "8,000 Hz" in text
        )
    for name in ("broken.flac is broken", "empty.wav", "silent.wav is silent"):
        assert name in page
    assert "src=" not in page and "href=" not in page and UNUSABLE.capitalize() in page


def test_the_prepared_manifest_holds_exact_durations(speech: Path, tmp_path: Path) -> None:
    folder = prepare("mine", speech, tmp_path / "runs", "data.max_bad_share=0.2")
    by_split, survey = open_corpora(folder, RATE_HZ, 0.1, 20.0)
    assert not survey.skipped and not survey.notes
    for corpus in by_split.values():
        assert all(
            len(corpus[i].samples) == round(RATE_HZ * corpus.duration_s(i))
            for i in range(len(corpus))
        )


def test_too_many_unusable_files_fail_after_the_report(speech: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="3 of 33 files .* cannot be used, more than data.max_bad_share=0.05"
    ):
        prepare("mine", speech, tmp_path / "runs")
    assert (tmp_path / "runs/data/mine/report.html").is_file()


def test_the_prepared_manifest_refers_to_shards(tmp_path: Path) -> None:
    corpora.webdataset(tmp_path / "web")
    folder = prepare("web", tmp_path / "web", tmp_path / "runs", "data.max_bad_share=1")
    opened, _ = open_corpora(folder, RATE_HZ, 0.1, 20.0)
    assert all(isinstance(e.path, TarSource) for c in opened.values() for e in c.entries)
    assert len(opened["train"][0].samples) == round(RATE_HZ * opened["train"].duration_s(0))


def test_a_published_corpus_is_read_by_its_name(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    corpora.parquet(tmp_path / "parts")
    folder = prepare(
        "voiceassistant", tmp_path / "parts", tmp_path / "runs", "data.max_bad_share=1"
    )
    opened, _ = open_corpora(folder, RATE_HZ, 0.1, 20.0)
    assert {e.answer for e in opened["train"].entries} == {"A.", ""}
    assert all(isinstance(e.path, ParquetSource) for e in opened["test"].entries)


def test_a_root_is_required() -> None:
    with pytest.raises(ValueError, match="ROOT= is empty; say where librispeech lies"):
        main(["librispeech", "", *TINY])


def test_a_byte_tokenizer_knows_every_character(config: Config) -> None:
    assert unknown_characters(set("aé語🎧"), config) == []


def test_the_histogram_has_a_bar_for_each_range_of_lengths() -> None:
    picture = draw([1, 4, 0], [0.0, 1.0, 2.0, 3.0])
    assert picture.count("<rect") == 3 and 'height="180.0"' in picture and "most: 4" in picture
