"""Check a corpus of utterances before training, and prepare it:

    python -m datamodules.sources.prepare librispeech /corpora/LibriSpeech configs/preset/tiny.yaml
    configs/stage/asr.yaml

decodes every sound once and writes to runs/data/<name>: `manifest.jsonl.gz`, which training reads in
place of the corpus and which holds all durations, `report.html`, and `report.json` with the numbers.
"""

import collections
import concurrent.futures
import dataclasses
import gzip
import json
import math
import sys
from pathlib import Path
from typing import Any

from rich.progress import track

from configs.loading import load_config
from configs.schema import Config, SourceConfig
from datamodules.corpus import UnusableAudio
from datamodules.sources import AUTO, PUBLISHED_CORPORA
from datamodules.sources.audio import native_rate_hz, read_audio
from datamodules.sources.audio_sources import audio_source_to_record
from datamodules.sources.corpus_manifest import (
    EntriesBySplit,
    check_bad_share,
    fitted_in,
    survey_entries,
)
from datamodules.sources.manifest_entry import UNUSABLE, Entry, EntryOrSkipped, Skipped, partition
from datamodules.sources.readers import read_source
from datamodules.sources.report import Report, print_report, write_html
from duplexmamba.text.tokenizer import Tokenizer

PLAIN_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz' ")
"""Characters that a report does not list."""


@dataclasses.dataclass(frozen=True)
class DecodedEntry:
    """Result of decoding the sound of an entry."""

    entry: EntryOrSkipped
    """The entry with its exact duration, or why it is unusable."""
    rate_hz: int | None
    """Sample rate of the file; None: it is unusable."""


def main(args: list[str]) -> Path:
    """Run the command.

    Args:
        args: name of the corpus, its folder, and the arguments of `load_config`.

    Returns:
        The folder with the report and the manifest.

    Raises:
        ValueError: nothing is usable; or more than data.max_bad_share is unusable, after the report
            has been written.
    """
    name, root, *rest = args
    config = load_config(rest)
    folder = Path(config.run.dir) / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    source = find_source(name, root, config)
    report, splits = check(name, source, config)
    write_manifest(splits, folder / "manifest.jsonl.gz")
    write_html(report, folder / "report.html")
    numbers = json.dumps(report.numbers(), indent=1)
    (folder / "report.json").write_text(numbers + "\n")
    print_report(report)
    print(
        f"{folder}: report.html, report.json, manifest.jsonl.gz\ntrain on it: make train "
        f"DATA={folder}"
    )
    # Last, so that the report names the unusable files.
    check_bad_share(report.survey, config.data.max_bad_share)
    return folder


def find_source(name: str, root: str, config: Config) -> SourceConfig:
    """Settings of the corpus to check.

    Args:
        name: name of a line in data.sources, of a published corpus, or any other.
        root: folder of the corpus; empty: the path in data.sources.
        config: the configuration.

    Raises:
        ValueError: neither `root` nor data.sources has a path.
    """
    # A name that is neither in data.sources nor published: the format is detected.
    format_name: Any = PUBLISHED_CORPORA.get(name, AUTO)
    default = dataclasses.replace(config.data.source, kind=format_name)
    source = config.data.sources.get(name) or default
    path = root or source.path
    if not path:
        raise ValueError(f"ROOT= is empty; say where {name} lies, such as ROOT=/corpora/{name}")
    return dataclasses.replace(source, path=path)


def check(name: str, source: SourceConfig, config: Config) -> tuple[Report, EntriesBySplit]:
    """Decode every sound of a source.

    Args:
        name: name of the corpus, for the report.
        source: settings of the corpus.
        config: the accepted lengths, the tokenizer, and the number of threads.

    Returns:
        The report, and the usable entries of each split.

    Raises:
        ValueError: nothing is usable.
    """
    entries, skipped = read_source(source)
    decoded = _decode_all(entries, config.data.num_workers)
    min_s = config.data.min_s
    max_s = config.data.max_s
    usable, unusable = partition(fitted_in(item.entry, min_s, max_s) for item in decoded)
    splits, survey = survey_entries(usable, skipped + unusable, source)
    characters = collections.Counter("".join(entry.text + entry.answer for entry in usable))
    lengths_s = {}
    for split, split_entries in splits.items():
        lengths_s[split] = [entry.length_s for entry in split_entries]
    report = Report(
        name=name,
        path=source.path,
        survey=survey,
        lengths_s=lengths_s,
        rates_hz=collections.Counter(item.rate_hz for item in decoded if item.rate_hz),
        characters=_unusual(characters),
        unknown=unknown_characters(set(characters), config),
        tokenizer=config.tokenizer.source,
        model_rate_hz=config.features.sample_rate_hz,
    )
    return report, splits


def _unusual(characters: collections.Counter[str]) -> dict[str, int]:
    """Characters worth listing, the most frequent first -> how often each occurs."""
    counts = {}
    for character, count in characters.most_common():
        if character.lower() not in PLAIN_CHARACTERS:
            counts[character] = count
    return counts


def _decode_all(entries: list[Entry], num_workers: int) -> list[DecodedEntry]:
    # Threads suffice: libsndfile and soxr release the interpreter lock.
    with concurrent.futures.ThreadPoolExecutor(max(1, num_workers)) as pool:
        decoded = track(
            pool.map(_decode, entries), f"Decoding {len(entries):,} utterances", len(entries)
        )
        return list(decoded)


def _decode(entry: Entry) -> DecodedEntry:
    try:
        # At the native rate, since resampling would take time and change no finding.
        rate_hz = native_rate_hz(entry.path)
        samples = read_audio(
            entry.path,
            rate_hz,
            entry.start_s,
            entry.duration_s,
            entry.channel,
            min_s=0,
            max_s=math.inf,
        )
    except UnusableAudio as error:
        return DecodedEntry(Skipped(UNUSABLE, str(error)), None)
    measured = dataclasses.replace(entry, duration_s=len(samples) / rate_hz)
    return DecodedEntry(measured, rate_hz)


def unknown_characters(characters: set[str], config: Config) -> list[str]:
    """Characters that the tokenizer of a configuration does not reproduce, sorted."""
    if config.tokenizer.source == "bpe":
        # This tokenizer is trained on the corpus, so its characters are what matters.
        tokenizer = Tokenizer.train(sorted(characters))
    else:
        tokenizer = Tokenizer.load(config.tokenizer.source)
    unknown = []
    for character in sorted(characters):
        decoded = tokenizer.decode(tokenizer.encode(character))
        if not character.isspace() and decoded != character:
            unknown.append(character)
    return unknown


def write_manifest(splits: EntriesBySplit, path: Path) -> None:
    """Write entries as a gzipped JSONL manifest, which `readers` can read."""
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for split, entries in splits.items():
            for entry in entries:
                record = _to_record(entry, split)
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _to_record(entry: Entry, split: str) -> dict[str, Any]:
    """Line of a manifest."""
    return {
        "id": entry.id,
        "offset": entry.start_s,
        "duration": entry.duration_s,
        "text": entry.text,
        "answer": entry.answer,
        "speaker": entry.speaker,
        "split": split,
        "channel": entry.channel,
        **audio_source_to_record(entry.path),
    }


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
