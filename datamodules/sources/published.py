"""Corpora that come with one large table in a layout of their own -> entries: Common Voice,
GigaSpeech, InstructS2S-200K."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.schema import SourceConfig
from datamodules.sources.manifest_entry import NO_AUDIO, Entry, EntryOrSkipped, Skipped, spoken_text
from datamodules.sources.manifests import Record, read_plain_manifest, read_records

COMMON_VOICE_SPLITS = ("train", "dev", "test")
"""Tables that are read where the configuration names none."""
CLIP_DURATIONS = "clip_durations.tsv"
"""Common Voice's table of durations, which only recent releases have."""
GIGASPEECH_SPLITS = {"dev": "dev", "test": "test"}
"""Subsets of GigaSpeech that are not training speech."""
USER_ROLES = ("human", "user")
"""Values of `from` for the user's turns in InstructS2S-200K."""


def _split_names(source: SourceConfig) -> list[str]:
    """The corpus's own names of splits that the configuration lists."""
    names = []
    for joined_names in source.split.values():
        names += joined_names.split("+")
    return names


def read_commonvoice(source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    """Read Common Voice: <language>/train.tsv, dev.tsv, test.tsv, and clips/*.mp3.

    Args:
        source: `split` may name other tables, such as validated.
        folder: the folder of one language, or one above it.

    Raises:
        ValueError: the folder holds no language or several, or a table does not exist.
    """
    languages = sorted(clips.parent for clips in folder.glob("**/clips"))
    if len(languages) != 1:
        raise ValueError(
            f"{folder} holds clips of {len(languages)} languages; give the folder of one, "
            "such as .../en"
        )
    [language] = languages
    names = set(_split_names(source)) or set(COMMON_VOICE_SPLITS)
    durations_s = _clip_durations(language / CLIP_DURATIONS)
    # A set has no order of its own, but the order of entries must be reproducible.
    for name in sorted(names):
        table = language / f"{name}.tsv"
        if not table.is_file():
            raise ValueError(
                f"{table} does not exist; name a table that is there in data.sources.*.split"
            )
        records = []
        for number, row in enumerate(read_records(table), 1):
            clip = row.get("path")
            if not clip:
                raise ValueError(
                    f"{table}, row {number}: no path; give the name of its clip, or remove the row"
                )
            # The table names the file without its folder.
            records.append({**row, "path": f"clips/{clip}", "duration": durations_s.get(clip)})
        yield from read_plain_manifest(table, records, source, name)


def _clip_durations(table: Path) -> dict[str, float]:
    """File name -> seconds; empty without the table."""
    if not table.is_file():
        return {}
    durations_s = {}
    for number, row in enumerate(read_records(table), 1):
        try:
            durations_s[row["clip"]] = float(row["duration[ms]"]) / 1000
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{table}, row {number}: no clip and duration[ms]; correct it, or remove the table: "
                "durations are then read from the clips"
            ) from None
    return durations_s


def read_gigaspeech(source: SourceConfig, table: Path) -> Iterator[EntryOrSkipped]:
    """Read GigaSpeech.json, which lists hours-long recordings with their segments.

    Args:
        source: `split` selects subsets, such as {train: m}.
        table: GigaSpeech.json, in the folder of the recordings.
    """
    selected = {name.lower(): name for name in _split_names(source)}
    recordings = [recording for corpus in read_records(table) for recording in corpus["audios"]]
    for recording in recordings:
        path = table.parent / recording["path"]
        # Looked up once per recording, since it has hundreds of segments.
        is_present = path.is_file()
        for segment in recording["segments"]:
            if is_present:
                yield _gigaspeech_entry(segment, path, selected)
            else:
                yield Skipped(NO_AUDIO, segment["sid"])


def _gigaspeech_entry(segment: dict[str, Any], path: Path, selected: dict[str, str]) -> Entry:
    begin_s = _seconds(segment, "begin_time", path)
    end_s = _seconds(segment, "end_time", path)
    speaker = str(segment.get("speaker") or "")
    return Entry(
        id=segment["sid"],
        path=path,
        start_s=begin_s,
        duration_s=end_s - begin_s,
        text=spoken_text(segment["text_tn"] or ""),
        answer="",
        speaker=speaker.replace("N/A", ""),
        split=_gigaspeech_split(segment["subsets"], selected),
    )


def _seconds(segment: dict[str, Any], field: str, path: Path) -> float:
    try:
        return float(segment[field])
    except ValueError:
        raise ValueError(
            f"{path}, segment {segment['sid']}: {field}={segment[field]!r} is no number of seconds; correct "
            "it or remove the segment"
        ) from None


def _gigaspeech_split(subsets: list[str], selected: dict[str, str]) -> str | None:
    """The first selected subset of a segment, which belongs to several of {XS} to {XL}.

    Args:
        subsets: subsets of the segment.
        selected: subset in lower case -> its name in the configuration; empty: the configuration
            selects none.

    Returns:
        Name of the split; None: train, by default.
    """
    names = selected or GIGASPEECH_SPLITS
    for subset in subsets:
        name = subset.strip("{}").lower()
        if name in names:
            return names[name]
    # A name that no configuration selects, so that the segment is left out.
    return "other" if selected else None


def read_instructs2s(source: SourceConfig, table: Path) -> Iterator[EntryOrSkipped]:
    """Read InstructS2S-200K: each spoken turn of the user, with the next turn as its answer.

    Args:
        source: names of the columns.
        table: JSON list of {id, conversation: [{from, text, speech}, ...]}.
    """
    questions: list[Record] = []
    for record in read_records(table):
        questions += _questions(record)
    yield from read_plain_manifest(table, questions, source, None)


def _questions(record: Record) -> Iterator[Record]:
    turns = record["conversation"]
    for number, turn in enumerate(turns):
        if not turn.get("speech") or turn["from"] not in USER_ROLES:
            continue
        # The conversation may end with a turn of the user, which has no answer.
        is_last = number + 1 == len(turns)
        yield {
            "id": f"{record['id']}-{number}",
            "audio": turn["speech"],
            "text": turn["text"],
            "answer": "" if is_last else turns[number + 1]["text"],
        }
