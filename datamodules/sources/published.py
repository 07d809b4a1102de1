"""Corpora that come with one large table of their own making -> entries: Common Voice, GigaSpeech,
InstructS2S-200K."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.schema import SourceConfig
from datamodules.sources.manifest_entry import NO_AUDIO, Entry, EntryOrSkipped, Skipped, spoken_text
from datamodules.sources.manifests import Record, read_plain_manifest, read_records

COMMON_VOICE_SPLITS = ("train", "dev", "test")
CLIP_LENGTHS = "clip_durations.tsv"


def read_commonvoice(source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    """<language>/train.tsv, dev.tsv, test.tsv (others where `split` names them) and clips/*.mp3."""
    languages = sorted(clips.parent for clips in folder.glob("**/clips"))
    if len(languages) != 1:
        raise ValueError(
            f"{folder} holds clips of {len(languages)} languages; give the folder of one, "
            "such as .../en"
        )
    [language] = languages
    names = {name for names in source.split.values() for name in names.split("+")} or set(
        COMMON_VOICE_SPLITS
    )
    lengths = _clip_lengths(language / CLIP_LENGTHS) if (language / CLIP_LENGTHS).is_file() else {}
    for name in sorted(names):
        table = language / f"{name}.tsv"
        if not table.is_file():
            raise ValueError(
                f"{table} does not exist; name a table that is there in data.sources.*.split"
            )
        rows = [
            {**row, "path": f"clips/{row['path']}", "duration": lengths.get(row["path"])}
            for row in read_records(table)
        ]
        yield from read_plain_manifest(table, rows, source, name)


def _clip_lengths(table: Path) -> dict[str, float]:
    """File name -> seconds."""
    return {row["clip"]: float(row["duration[ms]"]) / 1000 for row in read_records(table)}


def read_gigaspeech(source: SourceConfig, table: Path) -> Iterator[EntryOrSkipped]:
    """GigaSpeech.json: hours-long recordings with their segments, each in several of {XS} to {XL},
    {DEV}, {TEST}."""
    wanted = {name.lower(): name for names in source.split.values() for name in names.split("+")}
    [corpus] = read_records(table)
    for recording in corpus["audios"]:
        path = table.parent / recording["path"]
        missing = not path.is_file()
        for segment in recording["segments"]:
            yield Skipped(NO_AUDIO, segment["sid"]) if missing else _segment(segment, path, wanted)


def _segment(segment: dict[str, Any], path: Path, wanted: dict[str, str]) -> Entry:
    sizes = [name.strip("{}").lower() for name in segment["subsets"]]
    known = wanted or {"dev": "dev", "test": "test"}
    split = next((known[size] for size in sizes if size in known), "other" if wanted else None)
    start_s = float(segment["begin_time"])
    speaker = str(segment.get("speaker") or "").replace("N/A", "")
    length_s = float(segment["end_time"]) - start_s
    return Entry(
        segment["sid"], path, start_s, length_s, spoken_text(segment["text_tn"]), "", speaker, split
    )


def read_instructs2s(source: SourceConfig, table: Path) -> Iterator[EntryOrSkipped]:
    """[{id, conversation: [{from, text, speech}, ...]}, ...]: each spoken turn, with the next one
    as its answer."""
    questions = [question for row in read_records(table) for question in _questions(row)]
    yield from read_plain_manifest(table, questions, source, None)


def _questions(row: Record) -> Iterator[Record]:
    turns = row["conversation"]
    for number, turn in enumerate(turns):
        if turn.get("speech") and turn["from"] in ("human", "user"):
            answer = turns[number + 1]["text"] if number + 1 < len(turns) else ""
            yield {
                "id": f"{row['id']}-{number}",
                "audio": turn["speech"],
                "text": turn["text"],
                "answer": answer,
            }
