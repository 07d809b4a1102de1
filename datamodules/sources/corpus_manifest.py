"""Recorded speech as corpora: the entries that `readers` yields, measured, split, and decoded on
demand."""

import concurrent.futures
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from rich.progress import track

from configs.checks import SPLITS
from configs.schema import DataConfig, SourceConfig
from datamodules.corpus import UnusableAudio, Utterance
from datamodules.sources.audio import audio_duration_s, length_problem, read_audio
from datamodules.sources.audio_sources import ParquetSource
from datamodules.sources.folders import UNREAD_SUFFIXES
from datamodules.sources.manifest_entry import (
    IN_TWO_SPLITS,
    UNUSABLE,
    Entry,
    EntryOrSkipped,
    Skipped,
    partition,
    summarise_skipped,
)
from datamodules.sources.readers import check_any, read_source
from datamodules.sources.storage import is_url

ALL_IN_TEST = (
    "every utterance of train is in valid or test too: scores say nothing about other speech"
)
HELD_OUT_SHARE = 0.05
"""Share of the speakers that valid gets, and test, where the corpus has no such split."""
MIN_SPEAKERS = 3
"""With fewer speakers, valid and test cannot each have one that is not in train."""
NUM_CHECKED_DURATIONS = 3
"""Files whose duration in the manifest is compared with their header."""
MAX_DURATION_RATIO = 50
"""A duration that is so many times the length of its file is not in seconds."""
NUM_NAMED_FILES = 3
"""Unusable files that an error message names."""
NUM_MEASURING_THREADS = 16
"""Headers that are read in parallel, since reading them is mostly waiting for the disk."""
MIN_ENTRIES_FOR_PROGRESS = 2000
"""With more entries, measuring shows a progress bar."""

OVERLAP_SHARE = 0.5
"""Share of an utterance that another one may hold too: segments are cut with some margin."""

OpenedSources = dict[str, tuple[dict[str, "ManifestCorpus"], "Survey"]]
"""Name of a source -> its corpora by split, and its survey."""
Stretches = dict[str, list[Entry]]
"""Name of a sound -> entries that are parts of it."""
EntriesBySplit = dict[str, list[Entry]]
"""Split (train, valid, test) -> its entries."""


@dataclasses.dataclass(frozen=True)
class SplitFacts:
    """Size of one split."""

    utterances: int
    hours: float
    speakers: int


@dataclasses.dataclass(frozen=True)
class Survey:
    """Sizes of all splits, and skipped files; `str` gives a summary of a few lines."""

    splits: dict[str, SplitFacts]
    skipped: list[Skipped]
    notes: list[str]
    """Sentences on splits that the corpus does not have."""
    names_splits: bool = True
    """Whether an utterance of the corpus names its split."""
    noun: str = "utterances"
    """What is counted."""

    @property
    def unusable(self) -> list[str]:
        """One sentence for each file that should have been usable."""
        return [skip.detail for skip in self.skipped if skip.reason == UNUSABLE]

    def __str__(self) -> str:
        lines = []
        for name, facts in self.splits.items():
            lines.append(
                f"{name:<6}{facts.utterances:>9,} {self.noun} {facts.hours:>9.2f} h "
                f"{facts.speakers:>7,} speakers"
            )
        for phrase in self.left_out():
            lines.append(f"left out: {phrase}")
        return "\n".join(lines + self.notes)

    def left_out(self) -> list[str]:
        """One phrase per reason for leaving utterances out, with their number and examples."""
        return summarise_skipped(self.skipped)


class ManifestCorpus:
    """The utterances of one split, each read from disk when it is indexed. A `Corpus`.

    Args:
        entries: entries after `measure`.
        rate_hz: sample rate of the utterances.
        min_s: shortest length that is accepted.
        max_s: longest length that is accepted.
    """

    def __init__(self, entries: list[Entry], rate_hz: int, min_s: float, max_s: float):
        self.entries = entries
        self.rate_hz = rate_hz
        self.min_s = min_s
        self.max_s = max_s
        self.groups = remote_groups(entries)

    def __len__(self) -> int:
        return len(self.entries)

    def duration_s(self, index: int) -> float:
        """Length in seconds by manifest or header."""
        return self.entries[index].length_s

    def qa_pair(self, index: int) -> tuple[str, str]:
        """Text and answer, without reading audio."""
        entry = self.entries[index]
        return entry.text, entry.answer

    def __getitem__(self, index: int) -> Utterance:
        """Decode an utterance.

        Raises:
            UnusableAudio: a problem that only decoding shows, such as a broken body or silence.
        """
        entry = self.entries[index]
        samples = read_audio(
            entry.path,
            self.rate_hz,
            entry.start_s,
            entry.duration_s,
            entry.channel,
            min_s=self.min_s,
            max_s=self.max_s,
        )
        return Utterance(entry.id, samples, entry.text, entry.answer, entry.speaker)


def remote_groups(entries: list[Entry]) -> np.ndarray | None:
    """Number of the remote row group that holds each sound, (len,).

    None: no sound is in a remote row group, so each can be fetched on its own.
    """
    # A row group is fetched whole, so its sounds should be read one after another.
    names = []
    for entry in entries:
        audio = entry.path
        if isinstance(audio, ParquetSource):
            names.append(f"{audio.file}:{audio.group}")
        else:
            names.append("")
    if not any(is_url(name) for name in names):
        return None
    _, groups = np.unique(names, return_inverse=True)
    return groups


def sources_of(data: DataConfig) -> dict[str, SourceConfig]:
    """Every source of a configuration by its name; that of `data.path` is called "path"."""
    sources = {}
    if data.path is not None:
        # A single corpus has the settings that the lines of `data.sources` start from.
        sources["path"] = dataclasses.replace(data.source, path=data.path)
    return {**sources, **data.sources}


def open_sources(data: DataConfig, rate_hz: int) -> OpenedSources:
    """Open every source of a configuration.

    Args:
        data: the sources and the limits on their utterances.
        rate_hz: sample rate of the utterances.

    Returns:
        Name of the source -> its corpora by split, and its survey.

    Raises:
        ValueError: a source does not exist, is of no known layout, has nothing usable, or too much
            that is unusable. The message names the source.
    """
    opened = {}
    for name, source in sources_of(data).items():
        try:
            opened[name] = open_source(source, data, rate_hz)
            _, survey = opened[name]
            # Checked per source: a broken one must not hide among larger ones.
            check_bad_share(survey, data.max_bad_share)
        except ValueError as error:
            field = "data.path" if name == "path" else f"data.sources.{name}"
            raise ValueError(f"{field}: {error}") from None
    return _without_leaks_between(opened)


def _without_leaks_between(opened: OpenedSources) -> OpenedSources:
    """Take out of the training speech of each source what another source is scored on."""
    scored = {}
    for name, (corpora, _) in opened.items():
        scored[name] = _scored_stretches([*corpora["valid"].entries, *corpora["test"].entries])
    cleaned = {}
    for name, (corpora, survey) in opened.items():
        others = [stretches for other, stretches in scored.items() if other != name]
        train = corpora["train"]
        kept, repeated = _not_scored(train.entries, others)
        if repeated:
            corpus = ManifestCorpus(kept, train.rate_hz, train.min_s, train.max_s)
            corpora = {**corpora, "train": corpus}
            facts = {**survey.splits, "train": _facts(kept)}
            skipped = survey.skipped + repeated
            survey = dataclasses.replace(survey, splits=facts, skipped=skipped)
        cleaned[name] = (corpora, survey)
    return cleaned


def open_source(
    source: SourceConfig, data: DataConfig, rate_hz: int
) -> tuple[dict[str, ManifestCorpus], Survey]:
    """Open one source.

    Args:
        source: the source.
        data: the limits on the length of its utterances.
        rate_hz: sample rate of the utterances.

    Returns:
        Its corpora by split (train, valid, test), and its survey.

    Raises:
        ValueError: the source does not exist, is of no known layout, or has nothing usable.
    """
    entries, skipped = read_source(source)
    entries, out_of_range = measure(entries, data.min_s, data.max_s)
    splits, survey = survey_entries(entries, skipped + out_of_range, source)
    corpora = {}
    for name, split in splits.items():
        corpora[name] = ManifestCorpus(split, rate_hz, data.min_s, data.max_s)
    return corpora, survey


def survey_entries(
    entries: list[Entry], skipped: list[Skipped], source: SourceConfig
) -> tuple[EntriesBySplit, Survey]:
    """Divide entries into train, valid and test, and count them.

    Args:
        entries: all entries of the source, with their durations.
        skipped: what is left out.
        source: the source; with `split`, nothing is held out of train.

    Raises:
        ValueError: there is no entry.
    """
    check_any(source.path, entries, skipped)
    splits, notes = split_entries(in_fair_order(entries), hold_out=not source.split)
    splits, repeated = without_leaks(splits)
    if repeated and not splits["train"]:
        # Nothing to train on would be worse; some overfit a few utterances on purpose.
        splits["train"] = [entry for entry in entries if entry.split in (None, "train")]
        notes = [*notes, ALL_IN_TEST]
        repeated = []
    skipped = skipped + repeated
    facts = {name: _facts(split) for name, split in splits.items()}
    names_splits = any(entry.split for entry in entries)
    return splits, Survey(facts, skipped, notes, names_splits)


def join(corpora: list[ManifestCorpus]) -> ManifestCorpus:
    """Join several corpora into one, in fair order."""
    entries = []
    for corpus in corpora:
        entries += corpus.entries
    first = corpora[0]
    return ManifestCorpus(in_fair_order(entries), first.rate_hz, first.min_s, first.max_s)


class Named(Protocol):
    """Anything with an ID."""

    @property
    def id(self) -> str:
        """Its name."""


AnyNamed = TypeVar("AnyNamed", bound=Named)


def in_fair_order(entries: list[AnyNamed]) -> list[AnyNamed]:
    """Sort entries by a hash of their IDs.

    Corpora list one speaker after another; in this order the first hundred of a split are a fair
    sample of it.
    """
    # Unlike after a shuffle, the order of two entries does not depend on the others.
    return sorted(entries, key=lambda entry: _hash_fraction(entry.id))


def check_bad_share(survey: Survey, max_bad_share: float) -> None:
    """Check how many files of a corpus cannot be used.

    Rows without text and utterances that the settings leave out do not count.

    Args:
        survey: the survey of the corpus.
        max_bad_share: largest share of unusable files that is accepted, 0 to 1.

    Raises:
        ValueError: a larger share is unusable.
    """
    bad = survey.unusable
    total = len(bad) + sum(facts.utterances for facts in survey.splits.values())
    if len(bad) > max_bad_share * total:
        more = "; ..." if len(bad) > NUM_NAMED_FILES else ""
        raise ValueError(
            f"{len(bad):,} of {total:,} files ({100 * len(bad) / total:.1f} %) cannot be "
            "used, more than "
            f"data.max_bad_share={max_bad_share:g}: "
            f"{'; '.join(bad[:NUM_NAMED_FILES])}{more}; "
            "mend or remove them, or raise data.max_bad_share"
        )


def measure(entries: list[Entry], min_s: float, max_s: float) -> tuple[list[Entry], list[Skipped]]:
    """Give entries their durations, from headers where the manifest has none.

    A remote sound is not fetched for this: the length of its entry is estimated from the text.

    Args:
        entries: the entries.
        min_s: shortest length that is accepted.
        max_s: longest length that is accepted.

    Returns:
        Usable entries, and those that are missing, broken, too short or too long.

    Raises:
        ValueError: the durations of a manifest are not in seconds.
    """
    _check_units(entries, max_s)
    with concurrent.futures.ThreadPoolExecutor(NUM_MEASURING_THREADS) as pool:
        measured: Iterable[EntryOrSkipped] = track(
            pool.map(_measured, entries),
            "Measuring audio files",
            len(entries),
            disable=len(entries) <= MIN_ENTRIES_FOR_PROGRESS,
        )
        return partition(fitted_in(item, min_s, max_s) for item in measured)


def _check_units(entries: list[Entry], max_s: float) -> None:
    """Raise ValueError where durations over `max_s` are far longer than their files: not seconds."""
    local = [entry for entry in entries if isinstance(entry.path, Path) and entry.duration_s]
    # Only then, since reading headers takes time.
    too_long = [entry for entry in local if entry.length_s > max_s]
    ratios = []
    for entry in too_long[:NUM_CHECKED_DURATIONS]:
        try:
            ratios.append(entry.length_s / audio_duration_s(entry.path))
        except UnusableAudio:
            # Reported with all other files.
            continue
    if ratios and min(ratios) > MAX_DURATION_RATIO:
        raise ValueError(
            f"{too_long[0].id}: duration={too_long[0].length_s:g}, of a file that is "
            f"{ratios[0]:,.0f} times shorter; durations and offsets are seconds: divide "
            "milliseconds by 1000 and samples by the rate, or leave them out"
        )


def _measured(entry: Entry) -> EntryOrSkipped:
    audio = entry.path
    if entry.duration_s is None and is_url(str(audio)):
        return entry
    # With a known duration, a local file only has to exist; its header is not read.
    is_readable = not isinstance(audio, Path) or _has_sound(audio)
    if entry.duration_s is not None and is_readable:
        return entry
    try:
        file_s = audio_duration_s(audio)
    except UnusableAudio as error:
        return Skipped(UNUSABLE, str(error))
    return dataclasses.replace(entry, duration_s=file_s - entry.start_s)


def _has_sound(path: Path) -> bool:
    """Whether a file is there, and not of a format that is known to be unreadable."""
    try:
        return path.is_file() and not path.name.lower().endswith(UNREAD_SUFFIXES)
    except OSError:  # a name that is longer than the file system allows
        return False


def fitted_in(item: EntryOrSkipped, min_s: float, max_s: float) -> EntryOrSkipped:
    """The entry, or the reason to skip it where it is too short or too long."""
    if isinstance(item, Skipped):
        return item
    problem = length_problem(item.length_s, min_s, max_s)
    if problem is None:
        return item
    return Skipped(problem, f"{item.id}: {item.length_s:.2f} s")


def split_entries(entries: list[Entry], hold_out: bool = True) -> tuple[EntriesBySplit, list[str]]:
    """Divide entries into train, valid and test.

    The splits of the corpus are used, and entries without one belong to train. If the corpus lacks
    valid or test, it is held out of train: whole speakers, or single utterances with fewer than
    three speakers. They are chosen by a hash of their names, so that they stay in their split when
    files are added.

    Args:
        entries: the entries, after `assign_split`.
        hold_out: whether to hold splits out of train.

    Returns:
        Entries by split, and notes on the splits that were held out.
    """
    splits: EntriesBySplit = {name: [] for name in SPLITS}
    for entry in entries:
        splits[entry.split or "train"].append(entry)
    missing = [name for name in ("valid", "test") if not splits[name]]
    train = splits["train"]
    if not missing or not train or not hold_out:
        return splits, []
    by_speaker = len({entry.speaker for entry in train}) >= MIN_SPEAKERS
    keys = [entry.speaker if by_speaker else entry.id for entry in train]
    split_by_key = hold_out_keys(set(keys), missing)
    # Train is emptied, then every entry that is not held out returns to it.
    splits["train"] = []
    for entry, key in zip(train, keys, strict=True):
        splits[split_by_key.get(key, "train")].append(entry)
    held_out = "whole speakers"
    if not by_speaker:
        held_out = "single utterances, since it names fewer than 3 speakers"
    note = f"the corpus gives no {' and no '.join(missing)}: held out of train, {held_out}"
    return splits, [note]


def without_leaks(splits: EntriesBySplit) -> tuple[EntriesBySplit, list[Skipped]]:
    """Take out of train what valid or test holds too: the same stretch of the same sound.

    Returns:
        Entries by split, and a skipped item for each entry taken out.
    """
    scored = _scored_stretches([*splits["valid"], *splits["test"]])
    train, repeated = _not_scored(splits["train"], [scored])
    return {**splits, "train": train}, repeated


def _not_scored(
    entries: Iterable[Entry], scored: Sequence[Stretches]
) -> tuple[list[Entry], list[Skipped]]:
    """Separate entries of train from those that are scored, too."""
    train = []
    repeated = []
    for entry in entries:
        if any(_is_scored(entry, stretches) for stretches in scored):
            repeated.append(Skipped(IN_TWO_SPLITS, entry.id))
        else:
            train.append(entry)
    return train, repeated


def _scored_stretches(entries: Iterable[Entry]) -> Stretches:
    """The stretches of sound that entries of valid and test hold."""
    stretches: Stretches = {}
    for entry in entries:
        stretches.setdefault(_sound_of(entry), []).append(entry)
    return stretches


def _is_scored(entry: Entry, scored: Stretches) -> bool:
    """Whether an entry shares more than half of itself, or of an entry that is scored, with that."""
    return any(_overlap(entry, other) for other in scored.get(_sound_of(entry), []))


def _overlap(first: Entry, second: Entry) -> bool:
    # None is the mean of all channels.
    if None not in (first.channel, second.channel) and first.channel != second.channel:
        return False
    end_s = min(first.start_s + first.length_s, second.start_s + second.length_s)
    shared_s = end_s - max(first.start_s, second.start_s)
    shorter_s = min(first.length_s, second.length_s)
    return first.start_s == second.start_s or shared_s > OVERLAP_SHARE * shorter_s


def _sound_of(entry: Entry) -> str:
    """What identifies the sound of an entry: of a file its path without links."""
    if not isinstance(entry.path, Path):
        return str(entry.path)
    path = _without_links(entry.path.parent) / entry.path.name
    return str(path.resolve() if path.is_symlink() else path)


@functools.cache
def _without_links(folder: Path) -> Path:
    """The folder itself, where the path leads through links; kept, since many files share one."""
    return folder.resolve()


def hold_out_keys(keys: set[str], missing: list[str]) -> dict[str, str]:
    """Choose the keys (speakers or utterances) that are held out, and their splits.

    Each missing split gets the keys whose hash is in its band, at least one key, and at most a
    third of all keys.
    """
    fractions = {key: _hash_fraction(key) for key in keys}
    remaining = sorted(keys, key=fractions.__getitem__)
    split_by_key: dict[str, str] = {}
    for number, split in enumerate(missing, 1):
        # The bands of valid and test are [0, 0.05) and [0.05, 0.1).
        band_end = number * HELD_OUT_SHARE
        num_in_band = sum(fractions[key] < band_end for key in remaining)
        # At most a third, so that train has speakers left when both splits are held out.
        count = min(max(1, num_in_band), len(keys) // 3)
        for key in remaining[:count]:
            split_by_key[key] = split
        remaining = remaining[count:]
    return split_by_key


def _hash_fraction(key: str) -> float:
    """A pseudo-random number in [0, 1) that depends on the key alone."""
    # Python's own hash of a string differs from process to process.
    digest = hashlib.sha256(key.encode()).hexdigest()
    return int(digest[:8], 16) / 2**32


def _facts(entries: list[Entry]) -> SplitFacts:
    hours = sum(entry.length_s for entry in entries) / 3600
    speakers = {entry.speaker for entry in entries if entry.speaker}
    return SplitFacts(len(entries), hours, len(speakers))
