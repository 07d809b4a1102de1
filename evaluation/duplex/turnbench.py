"""TurnBench: when a speaker's turn ends, and when a speaker interrupts the other.

A folder holds `<conversation>.wav` of two channels, speaker_1 and speaker_2, and where gold times are known
`<conversation>.json`: `{"speaker_1": {"eot": [s, ...], "interruption": [s, ...], "eot_negative": [[from_s, to_s], ...],
"interruption_negative": [...]}, "speaker_2": ...}`. That file is this project's own layout, since the benchmark
publishes the tracks of its annotators and no single gold; a submission is the benchmark's.

A session listens to one speaker. A `response` that begins while the other is silent is an end of turn, one while the
other speaks an interruption; `incomplete` and `ignore` are nothing. All times are in seconds, at the end of the slice.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile as sf
import torch

from evaluation.duplex.dialogues import Score
from evaluation.duplex.listen import OpenSession, Read
from evaluation.duplex.report import watched

SPEAKERS = ("speaker_1", "speaker_2")
EVENTS = ("eot", "interruption")
EARLY_S, LATE_S = 0.25, 3.0
"""Around a gold time, where a prediction matches; a span without events begins so early, too."""
MAX_FP_RATE = 0.15
"""Entries beyond are not ranked."""
FLOOR_DB = -60.0
"""Level below which a channel is silent in any case, relative to full scale."""

Times = Mapping[str, Mapping[str, Sequence[float]]]
"""By speaker and event."""


class Tally(NamedTuple):
    """How predictions of one kind of event met their gold times."""

    latencies_s: list[float]
    """Of the matches."""
    missed: int
    false: int
    """Spans without events in which something was predicted."""
    quiet: int
    """Those in which nothing was."""


def run(
    folder: Path, open_session: OpenSession, read: Read
) -> tuple[dict[str, Times], dict[str, Any]]:
    """Predictions, and gold times where they are known, by conversation.

    Raises:
        ValueError: there is no conversation, or a file is not laid out as above.
    """
    wavs = sorted(folder.glob("*.wav"))
    if not wavs:
        raise ValueError(
            f"{folder}: no wav in it; put each conversation there as <conversation>.wav of two channels"
        )
    for wav in wavs:
        _check_channels(wav)
    golds = {
        wav.stem: wav.with_suffix(".json") for wav in wavs if wav.with_suffix(".json").exists()
    }
    gold = {name: read_gold(file) for name, file in golds.items()}
    return {
        wav.stem: listen(open_session, read(wav, 0), read(wav, 1))
        for wav in watched(wavs, "conversations")
    }, gold


def _check_channels(wav: Path) -> None:
    try:
        channels = sf.info(wav).channels
    except sf.LibsndfileError as error:
        raise ValueError(
            f"{wav} cannot be read ({error.error_string}); mend or remove it"
        ) from None
    if channels != len(SPEAKERS):
        raise ValueError(f"{wav} has {channels} channels instead of two; put a speaker into each")


def listen(open_session: OpenSession, *channels: np.ndarray) -> Times:
    """What is predicted of each speaker of a conversation of two (n,) channels."""
    found = {}
    for who, own, other in zip(SPEAKERS, channels, channels[::-1], strict=True):
        session = open_session()
        decided = [
            event.slice
            for event in session.push(torch.from_numpy(own))
            if event.action == "respond"
        ]
        other_speaks = speaking(levels_db(other, session.slice_samples), session.duplex.silence_db)
        found[who] = predictions(decided, other_speaks, session.slice_s)
    return found


def speaking(levels_db: Sequence[float], silence_db: float) -> list[bool]:
    """Of each slice, whether it is loud beside the loudest so far."""
    loudest_db = np.maximum.accumulate(levels_db)
    return [
        level > max(FLOOR_DB, loud + silence_db)
        for level, loud in zip(levels_db, loudest_db, strict=True)
    ]


def levels_db(samples: np.ndarray, slice_samples: int) -> list[float]:
    """Root mean square of every whole slice of (n,) samples, relative to full scale."""
    slices = samples[: len(samples) // slice_samples * slice_samples].reshape(-1, slice_samples)
    return (10 * np.log10(np.square(slices, dtype=np.float64).mean(1) + 1e-12)).tolist()


def predictions(
    decisions: Sequence[int], other_speaks: Sequence[bool], slice_s: float
) -> dict[str, list[float]]:
    """Of the slices in which a response begins."""
    times: dict[str, list[float]] = {name: [] for name in EVENTS}
    for slice_ in decisions:
        times["interruption" if other_speaks[slice_] else "eot"].append(
            round((slice_ + 1) * slice_s, 6)
        )
    return times


def submission(found: Mapping[str, Times]) -> dict[str, Any]:
    """The file to hand in, of the predictions by conversation."""
    return {
        "schema_version": 1,
        "predictions": [{"conversation_id": name, **times} for name, times in found.items()],
    }


def tally(
    gold: Sequence[float], negative: Sequence[Sequence[float]], predicted: Sequence[float]
) -> Tally:
    """Match one to one, earliest first; a prediction that matches is false nowhere."""
    left, latencies_s = sorted(predicted), []
    for i, time_s in enumerate(gold):
        until_s = min([time_s + LATE_S, *gold[i + 1 : i + 2]])
        match = next((p for p in left if _within(p, time_s - EARLY_S, until_s)), None)
        if match is not None:
            left.remove(match)
            latencies_s.append(match - time_s)
    false = sum(any(_within(p, from_s - EARLY_S, to_s) for p in left) for from_s, to_s in negative)
    return Tally(latencies_s, len(gold) - len(latencies_s), false, len(negative) - false)


def _within(time_s: float, from_s: float, to_s: float) -> bool:
    return round(time_s - from_s, 6) >= 0 and round(to_s - time_s, 6) >= 0


def scores(found: Mapping[str, Times], gold: Mapping[str, Any]) -> dict[str, Score]:
    """Over all speakers of the conversations that have gold times."""
    named: dict[str, Score] = {}
    for event in EVENTS:
        tallies = [
            tally(gold[name][who][event], gold[name][who][f"{event}_negative"], found[name][who][event])
            for name in gold for who in SPEAKERS
        ]  # fmt: skip
        named |= {f"{event}/{score}": value for score, value in _scores(tallies).items()}
    return named


def _scores(tallies: Sequence[Tally]) -> dict[str, Score]:
    latencies_s = [s for t in tallies for s in t.latencies_s]
    missed, false, quiet = (
        sum(getattr(t, name) for t in tallies) for name in ("missed", "false", "quiet")
    )
    named: dict[str, Score] = {}
    if events := len(latencies_s) + missed:
        named["recall"] = Score(len(latencies_s) / events, events)
    if spans := false + quiet:
        named["fp_rate"] = Score(false / spans, spans)
        named["ranked"] = Score(false / spans <= MAX_FP_RATE, spans)
    for p in (10, 50, 90) if latencies_s else ():
        named[f"latency_p{p}_s"] = Score(float(np.percentile(latencies_s, p)), len(latencies_s))
    return named


def read_gold(file: Path) -> dict[str, Any]:
    """Raises ValueError: it is not laid out as above, or its times do not increase."""
    try:
        gold = json.loads(file.read_text())
        rows = [
            (f"{who}.{event}", row) for who in SPEAKERS for event in EVENTS
            for row in (gold[who][event], *gold[who][f"{event}_negative"])
        ]  # fmt: skip
        wrong = [name for name, row in rows if any(a >= b for a, b in itertools.pairwise(row))]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} holds no gold times ({type(error).__name__}: {error}); see {__name__}"
        ) from None
    if wrong:
        raise ValueError(f"{file}: times of {wrong[0]} do not increase; sort them")
    return gold
