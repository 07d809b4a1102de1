"""Recorded speech as corpora: what `readers` found, measured, split, and read on demand."""

import concurrent.futures
import dataclasses
import hashlib
from pathlib import Path

import numpy as np
from rich.progress import track

from configs.checks import SPLITS
from configs.schema import DataConfig, SourceConfig
from datamodules.corpus import UnusableAudio, Utterance
from datamodules.sources.audio import audio_duration_s, length_problem, read_audio
from datamodules.sources.audio_sources import ParquetSource
from datamodules.sources.manifest_entry import UNUSABLE, Entry, Skipped, summarise_skipped
from datamodules.sources.readers import check_any, read_source
from datamodules.sources.storage import is_url

HELD_OUT_SHARE = 0.05
"""Share of the speakers that valid gets, and test, where the corpus does not say."""
MIN_SPEAKERS = 3
"""With fewer, valid and test cannot each have a voice that is not in train."""


@dataclasses.dataclass(frozen=True)
class SplitFacts:
    """Size of one split."""

    utterances: int
    hours: float
    speakers: int


@dataclasses.dataclass(frozen=True)
class Survey:
    """Sizes of all splits and skipped files; `str` gives a summary of a few lines."""

    splits: dict[str, SplitFacts]
    skipped: list[Skipped]
    notes: list[str]

    @property
    def unusable(self) -> list[str]:
        """One sentence for each file that should have been usable."""
        return [skip.detail for skip in self.skipped if skip.reason == UNUSABLE]

    def __str__(self) -> str:
        found = [
            f"{name:<6}{facts.utterances:>9,} utterances {facts.hours:>9.2f} h "
            f"{facts.speakers:>7,} speakers"
            for name, facts in self.splits.items()
        ]
        return "\n".join(found + [f"left out: {phrase}" for phrase in self.left_out()] + self.notes)

    def left_out(self) -> list[str]:
        """One phrase for each reason."""
        return summarise_skipped(self.skipped)


class ManifestCorpus:
    """The utterances of one split, read from disk when asked for. A `Corpus`."""

    def __init__(self, entries: list[Entry], rate_hz: int, min_s: float, max_s: float):
        """
        Args:
            entries: all with their duration, as `measure` leaves them.
            rate_hz: sample rate of the utterances.
            min_s, max_s: lengths that are accepted.
        """
        self.entries, self.rate_hz, self.min_s, self.max_s = entries, rate_hz, min_s, max_s
        self.groups = remote_groups(entries)

    def __len__(self) -> int:
        return len(self.entries)

    def duration_s(self, index: int) -> float:
        """Length in seconds by manifest or header."""
        return self.entries[index].length_s

    def qa_pair(self, index: int) -> tuple[str, str]:
        """Text and answer, without reading audio."""
        return self.entries[index].text, self.entries[index].answer

    def __getitem__(self, index: int) -> Utterance:
        """Raises UnusableAudio: what shows only when the audio is read, such as a broken body or
        silence."""
        e = self.entries[index]
        samples = read_audio(
            e.path,
            self.rate_hz,
            e.start_s,
            e.duration_s,
            e.channel,
            min_s=self.min_s,
            max_s=self.max_s,
        )
        return Utterance(e.id, samples, e.text, e.answer, e.speaker)


def remote_groups(entries: list[Entry]) -> np.ndarray | None:
    """(len,) which row group on the network each sound comes with; None where each can be fetched
    alone."""
    names = [
        f"{e.path.file}:{e.path.group}" if isinstance(e.path, ParquetSource) else ""
        for e in entries
    ]
    if not any(is_url(name) for name in names):
        return None
    return np.unique(names, return_inverse=True)[1]


def sources_of(data: DataConfig) -> dict[str, SourceConfig]:
    """Every source of a configuration by its name, that of `data.path` among them."""
    single = (
        {"path": dataclasses.replace(data.source, path=data.path)} if data.path is not None else {}
    )
    return {**single, **data.sources}


def open_sources(
    data: DataConfig, rate_hz: int
) -> dict[str, tuple[dict[str, ManifestCorpus], Survey]]:
    """train, valid and test of every source, and what was found there.

    Raises:
        ValueError: nothing there, not understood, nothing in it usable, or too much of it not;
            names the source.
    """
    opened = {}
    for name, source in sources_of(data).items():
        try:
            opened[name] = open_source(source, data, rate_hz)
            check_bad_share(opened[name][1], data.max_bad_share)
        except ValueError as error:
            raise ValueError(
                f"{'data.path' if name == 'path' else f'data.sources.{name}'}: {error}"
            ) from None
    return opened


def open_source(
    source: SourceConfig, data: DataConfig, rate_hz: int
) -> tuple[dict[str, ManifestCorpus], Survey]:
    """train, valid and test of one source (see `readers`), and what was found there. Raises
    ValueError."""
    entries, skipped = read_source(source)
    entries, unfit = measure(entries, data.min_s, data.max_s)
    splits, survey = survey_entries(entries, skipped + unfit, source)
    corpora = {
        name: ManifestCorpus(held, rate_hz, data.min_s, data.max_s) for name, held in splits.items()
    }
    return corpora, survey


def survey_entries(
    entries: list[Entry], skipped: list[Skipped], source: SourceConfig
) -> tuple[dict[str, list[Entry]], Survey]:
    """train, valid and test, and the facts of them. Raises ValueError: no entry remains."""
    check_any(source.path, entries, skipped)
    # Corpora come speaker by speaker; in the order of a hash the first hundred of a split are a
    # fair sample of it.
    splits, notes = split_entries(in_fair_order(entries), hold_out=not source.split)
    return splits, Survey({name: _facts(held) for name, held in splits.items()}, skipped, notes)


def join(corpora: list[ManifestCorpus]) -> ManifestCorpus:
    """One corpus of several."""
    [first, *_] = corpora
    entries = in_fair_order([entry for corpus in corpora for entry in corpus.entries])
    return ManifestCorpus(entries, first.rate_hz, first.min_s, first.max_s)


def in_fair_order(entries: list[Entry]) -> list[Entry]:
    """By a hash of their names."""
    return sorted(entries, key=lambda entry: _position(entry.id))


def check_bad_share(survey: Survey, max_bad_share: float) -> None:
    """Raises ValueError when more than `max_bad_share` of the files cannot be used.

    Rows without text and utterances that the settings leave out do not count.
    """
    bad = survey.unusable
    total = len(bad) + sum(facts.utterances for facts in survey.splits.values())
    if len(bad) > max_bad_share * total:
        raise ValueError(
            f"{len(bad):,} of {total:,} files ({100 * len(bad) / total:.1f} %) cannot be "
            "used, more than "
            f"data.max_bad_share={max_bad_share:g}: "
            f"{'; '.join(bad[:3])}{'; ...' if len(bad) > 3 else ''}; "
            "mend or remove them, or raise data.max_bad_share"
        )


def measure(entries: list[Entry], min_s: float, max_s: float) -> tuple[list[Entry], list[Skipped]]:
    """Entries with their durations, from headers where the manifest has none, and those that are
    not fit for use.

    What lies on a network is not fetched for that.
    """
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        few = len(entries) <= 2000
        measured = list(
            track(pool.map(_measured, entries), "Looking at audio files", len(entries), disable=few)
        )
    fitted = [fitted_in(item, min_s, max_s) for item in measured]
    return [e for e in fitted if isinstance(e, Entry)], [
        s for s in fitted if isinstance(s, Skipped)
    ]


def _measured(entry: Entry) -> Entry | Skipped:
    if entry.duration_s is None and is_url(str(entry.path)):
        return entry
    if entry.duration_s is not None and (not isinstance(entry.path, Path) or entry.path.is_file()):
        return entry
    try:
        return dataclasses.replace(entry, duration_s=audio_duration_s(entry.path) - entry.start_s)
    except UnusableAudio as error:
        return Skipped(UNUSABLE, str(error))


def fitted_in(item: Entry | Skipped, min_s: float, max_s: float) -> Entry | Skipped:
    """The entry, unless it is too short or too long."""
    if isinstance(item, Skipped):
        return item
    trouble = length_problem(item.length_s, min_s, max_s)
    return Skipped(trouble, f"{item.id}: {item.length_s:.2f} s") if trouble else item


def split_entries(
    entries: list[Entry], hold_out: bool = True
) -> tuple[dict[str, list[Entry]], list[str]]:
    """train, valid and test, and notes on what the corpus left open.

    Splits that the corpus gives are kept, and its entries without one join train. What it lacks of
    valid and test is cut from train: whole speakers, chosen by a hash of their names, so that they
    stay where they are when files are added; with fewer than three speakers single utterances,
    chosen alike. Without `hold_out` nothing is cut.
    """
    splits = {name: [e for e in entries if (e.split or "train") == name] for name in SPLITS}
    missing, train = [name for name in ("valid", "test") if not splits[name]], splits["train"]
    if not missing or not train or not hold_out:
        return splits, []
    by_speaker = len({e.speaker for e in train}) >= MIN_SPEAKERS
    keys = [e.speaker if by_speaker else e.id for e in train]
    places = _hold_out(set(keys), missing)
    for name in (*missing, "train"):
        splits[name] = [
            e for e, key in zip(train, keys, strict=True) if places.get(key, "train") == name
        ]
    what = (
        "whole speakers"
        if by_speaker
        else "single utterances, since it names fewer than 3 speakers"
    )
    return splits, [f"the corpus gives no {' and no '.join(missing)}: held out of train, {what}"]


def _hold_out(keys: set[str], missing: list[str]) -> dict[str, str]:
    """Key -> the split it is held out for: those whose hash falls in the split's band, or next to
    it if none does."""
    position = {key: _position(key) for key in keys}
    ranked = sorted(keys, key=position.__getitem__)
    places: dict[str, str] = {}
    for number, split in enumerate(missing, 1):
        in_band = sum(position[key] < number * HELD_OUT_SHARE for key in ranked)
        count = min(max(1, in_band), len(keys) // 3)
        places |= dict.fromkeys(ranked[:count], split)
        ranked = ranked[count:]
    return places


def _position(key: str) -> float:
    """A fixed place in [0, 1) without meaning."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32


def _facts(entries: list[Entry]) -> SplitFacts:
    hours = sum(e.length_s for e in entries) / 3600
    return SplitFacts(len(entries), hours, len({e.speaker for e in entries if e.speaker}))
