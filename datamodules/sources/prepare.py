"""Check a corpus before anything is trained on it, and prepare it:

    python -m datamodules.sources.prepare librispeech /corpora/LibriSpeech configs/preset/tiny.yaml
    configs/stage/asr.yaml

reads every sound once and leaves in runs/data/<name>: `manifest.jsonl.gz`, which training reads in
place of the corpus and in which all is measured already, `report.html`, and `report.json` with the
numbers.
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
from datamodules.sources.corpus_manifest import check_bad_share, fitted_in, survey_entries
from datamodules.sources.manifest_entry import UNUSABLE, Entry, EntryOrSkipped, Skipped
from datamodules.sources.readers import read_source
from datamodules.sources.report import Report, print_report, write_html
from duplexmamba.text.tokenizer import Tokenizer

PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz' ")
"""Characters that are not worth a line in a report."""


def main(args: list[str]) -> Path:
    """Args: name, root, and those of `load_config`. Returns the folder of what was made.

    Raises:
        ValueError: nothing usable, or more than data.max_bad_share unusable, after the report has
            named it.
    """
    name, root, *rest = args
    config = load_config(rest)
    folder = Path(config.run.dir) / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    source = find_source(name, root, config)
    report, splits = check(name, source, config)
    write_manifest(splits, folder / "manifest.jsonl.gz")
    write_html(report, folder / "report.html")
    (folder / "report.json").write_text(json.dumps(report.numbers(), indent=1) + "\n")
    print_report(report)
    print(
        f"{folder}: report.html, report.json, manifest.jsonl.gz\ntrain on it: make train "
        f"DATA={folder}"
    )
    check_bad_share(report.survey, config.data.max_bad_share)
    return folder


def find_source(name: str, root: str, config: Config) -> SourceConfig:
    """The line of data.sources that has this name, else one of the published format, or whatever is
    there."""
    format_name: Any = PUBLISHED_CORPORA.get(name, AUTO)
    default = dataclasses.replace(config.data.source, kind=format_name)
    line = config.data.sources.get(name) or default
    if not (root or line.path):
        raise ValueError(f"ROOT= is empty; say where {name} lies, such as ROOT=/corpora/{name}")
    return dataclasses.replace(line, path=root or line.path)


def check(name: str, source: SourceConfig, config: Config) -> tuple[Report, dict[str, list[Entry]]]:
    """What every sound and text of a source is like, and what of it is left. Raises ValueError:
    nothing is."""
    entries, skipped = read_source(source)
    with concurrent.futures.ThreadPoolExecutor(max(1, config.data.num_workers)) as pool:
        heard = [
            *track(
                pool.map(_hear, entries), f"Listening to {len(entries):,} utterances", len(entries)
            )
        ]
    found = [fitted_in(item, config.data.min_s, config.data.max_s) for item, _ in heard]
    left = [item for item in found if isinstance(item, Entry)]
    splits, survey = survey_entries(
        left, skipped + [s for s in found if isinstance(s, Skipped)], source
    )
    characters = collections.Counter("".join(e.text + e.answer for e in left))
    report = Report(
        name=name,
        path=source.path,
        survey=survey,
        lengths_s={split: [e.length_s for e in held] for split, held in splits.items()},
        rates_hz=collections.Counter(rate_hz for _, rate_hz in heard if rate_hz),
        characters={c: n for c, n in characters.most_common() if c.lower() not in PLAIN},
        unknown=unknown_characters(set(characters), config),
        tokenizer=config.tokenizer.source,
    )
    return report, splits


def _hear(entry: Entry) -> tuple[EntryOrSkipped, int | None]:
    """The entry as it was measured, and the rate of its file."""
    try:
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
        return Skipped(UNUSABLE, str(error)), None
    return dataclasses.replace(entry, duration_s=len(samples) / rate_hz), rate_hz


def unknown_characters(characters: set[str], config: Config) -> list[str]:
    """Characters that the tokenizer does not reproduce."""
    bpe = config.tokenizer.source == "bpe"
    tokens = Tokenizer.train(sorted(characters)) if bpe else Tokenizer.load(config.tokenizer.source)
    return sorted(c for c in characters if not c.isspace() and tokens.decode(tokens.encode(c)) != c)


def write_manifest(splits: dict[str, list[Entry]], path: Path) -> None:
    """A manifest that `readers` understands."""
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for split, entries in splits.items():
            for e in entries:
                row = {
                    "id": e.id,
                    "offset": e.start_s,
                    "duration": e.duration_s,
                    "text": e.text,
                    "answer": e.answer,
                }
                row |= {
                    "speaker": e.speaker,
                    "split": split,
                    "channel": e.channel,
                    **audio_source_to_record(e.path),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
