"""TurnBench: when a speaker's turn ends, and when a speaker interrupts the other.

A folder holds `<conversation>.wav` of two channels, speaker_1 and speaker_2, and if gold times are
known `<conversation>.json`: `{"speaker_1": {"eot": [s, ...], "interruption": [s, ...],
"eot_negative": [[from_s, to_s], ...], "interruption_negative": [...]}, "speaker_2": ...}`. That
file is this project's own layout, since the benchmark publishes the tracks of its annotators and no
single gold standard; the submission has the benchmark's layout.

A session gets the audio of one speaker. A `response` that begins while the other speaker is silent
is an end of turn (eot), one that begins while the other speaks is an interruption; `incomplete` and
`ignore` predict nothing. All times are in seconds, at the end of the slice.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile as sf
import torch

from evaluation.console import with_progress
from evaluation.duplex.play import OpenSession, ReadAudio
from evaluation.record import ScoreValue

SPEAKERS = ("speaker_1", "speaker_2")
EVENTS = ("eot", "interruption")
EARLY_S = 0.25
LATE_S = 3.0
"""A prediction matches a gold time from `EARLY_S` before it to `LATE_S` after it. Spans without
events also begin `EARLY_S` early."""
MAX_FP_RATE = 0.15
"""Entries with a higher false positive rate are not ranked."""
FLOOR_DB = -60.0
"""Level relative to full scale below which a channel always counts as silent."""
PERCENTILES = (10, 50, 90)

Times = Mapping[str, Mapping[str, Sequence[float]]]
"""Speaker -> kind of event -> times in seconds."""


class Tally(NamedTuple):
    """Result of matching the predictions of one kind of event with their gold times."""

    latencies_s: list[float]
    """Prediction minus gold time, for each match."""
    missed: int
    """Gold times without a match."""
    false: int
    """Spans without events in which something was predicted."""
    quiet: int
    """Spans without events in which nothing was predicted."""


def run(
    folder: Path, open_session: OpenSession, read_audio: ReadAudio
) -> tuple[dict[str, Times], dict[str, Any]]:
    """Predict the events of all conversations in a folder.

    Returns:
        Predictions, and gold times where they are known, by conversation.

    Raises:
        ValueError: there is no conversation, or a file does not have the layout above.
    """
    wavs = sorted(folder.glob("*.wav"))
    if not wavs:
        raise ValueError(
            f"{folder}: no wav in it; put each conversation there as <conversation>.wav of two "
            "channels"
        )
    # All files are checked before the first session starts.
    for wav in wavs:
        _check_channels(wav)
    gold = {}
    for wav in wavs:
        gold_file = wav.with_suffix(".json")
        if gold_file.exists():
            gold[wav.stem] = read_gold(gold_file)
    predicted = {}
    for wav in with_progress(wavs, "conversations"):
        channels = [read_audio(wav, channel) for channel in range(len(SPEAKERS))]
        predicted[wav.stem] = predict(open_session, *channels)
    return predicted, gold


def _check_channels(wav: Path) -> None:
    try:
        num_channels = sf.info(wav).channels
    except sf.LibsndfileError as error:
        raise ValueError(
            f"{wav} cannot be read ({error.error_string}); repair or remove it"
        ) from None
    if num_channels != len(SPEAKERS):
        raise ValueError(
            f"{wav} has {num_channels} channels instead of two; put a speaker into each"
        )


def predict(open_session: OpenSession, *channels: np.ndarray) -> Times:
    """Predict the events of each speaker of a conversation of two (n,) channels."""
    predicted = {}
    other_channels = channels[::-1]
    for speaker, own, other in zip(SPEAKERS, channels, other_channels, strict=True):
        # The other speaker is left out, since a session takes all speech for that of its user.
        session = open_session()
        events = session.push(torch.from_numpy(own))
        decisions = [event.slice for event in events if event.action == "respond"]
        levels = levels_db(other, session.slice_samples)
        other_speaks = speaking(levels, session.duplex.silence_db)
        predicted[speaker] = predictions(decisions, other_speaks, session.slice_s)
    return predicted


def speaking(levels_db: Sequence[float], silence_db: float) -> list[bool]:
    """Whether each slice is loud compared with the loudest slice so far.

    Args:
        levels_db: level of each slice.
        silence_db: negative; a slice this far below the loudest one is silent.
    """
    # Only slices so far: the result must not depend on what comes later, as in a live session.
    loudest_db = np.maximum.accumulate(levels_db)  # (slices,)
    speaks = []
    for level_db, loud_db in zip(levels_db, loudest_db, strict=True):
        threshold_db = max(FLOOR_DB, loud_db + silence_db)
        speaks.append(level_db > threshold_db)
    return speaks


def levels_db(samples: np.ndarray, slice_samples: int) -> list[float]:
    """Root mean square of every whole slice of (n,) samples, in dB relative to full scale."""
    whole_samples = len(samples) // slice_samples * slice_samples
    slices = samples[:whole_samples].reshape(-1, slice_samples)  # (slices, slice_samples)
    power = np.square(slices, dtype=np.float64).mean(1)
    # The constant keeps the logarithm of digital silence finite.
    return (10 * np.log10(power + 1e-12)).tolist()


def predictions(
    decisions: Sequence[int], other_speaks: Sequence[bool], slice_s: float
) -> dict[str, list[float]]:
    """Times of the predicted events.

    Args:
        decisions: slices in which a response begins.
        other_speaks: for each slice, whether the other speaker speaks.
        slice_s: length of a slice.
    """
    times: dict[str, list[float]] = {event: [] for event in EVENTS}
    for slice_ in decisions:
        event = "interruption" if other_speaks[slice_] else "eot"
        end_s = (slice_ + 1) * slice_s
        times[event].append(round(end_s, 6))
    return times


def submission(predicted: Mapping[str, Times]) -> dict[str, Any]:
    """Content of the file to submit, from the predictions by conversation."""
    entries = [{"conversation_id": name, **times} for name, times in predicted.items()]
    return {"schema_version": 1, "predictions": entries}


def tally(
    gold: Sequence[float], negative: Sequence[Sequence[float]], predicted: Sequence[float]
) -> Tally:
    """Match predictions and gold times one to one, earliest first.

    A prediction that matches is not a false positive, even in a span without events.

    Args:
        gold: increasing times of events.
        negative: spans without events.
        predicted: times of predictions.
    """
    unmatched = sorted(predicted)
    latencies_s = []
    for index, time_s in enumerate(gold):
        # The next event ends the window of this one.
        until_s = min([time_s + LATE_S, *gold[index + 1 : index + 2]])
        matches = [p for p in unmatched if _is_within(p, time_s - EARLY_S, until_s)]
        if matches:
            unmatched.remove(matches[0])
            latencies_s.append(matches[0] - time_s)
    num_false = 0
    for from_s, to_s in negative:
        # Several predictions in a span count once: the rate is one of spans.
        if any(_is_within(p, from_s - EARLY_S, to_s) for p in unmatched):
            num_false += 1
    num_missed = len(gold) - len(latencies_s)
    return Tally(latencies_s, num_missed, num_false, len(negative) - num_false)


def _is_within(time_s: float, from_s: float, to_s: float) -> bool:
    """Whether a time is in a closed interval, apart from errors of floating point."""
    return round(time_s - from_s, 6) >= 0 and round(to_s - time_s, 6) >= 0


def scores(predicted: Mapping[str, Times], gold: Mapping[str, Any]) -> dict[str, ScoreValue]:
    """Scores over all speakers of the conversations that have gold times."""
    result: dict[str, ScoreValue] = {}
    for event in EVENTS:
        tallies = []
        for name, gold_of_speakers in gold.items():
            for speaker in SPEAKERS:
                times = gold_of_speakers[speaker]
                negative = times[f"{event}_negative"]
                predicted_s = predicted[name][speaker][event]
                tallies.append(tally(times[event], negative, predicted_s))
        # Events of all conversations are pooled: short ones would make noisy rates.
        for score, value in _event_scores(tallies).items():
            result[f"{event}/{score}"] = value
    return result


def _event_scores(tallies: Sequence[Tally]) -> dict[str, ScoreValue]:
    """Scores of one kind of event; those without a single case are left out."""
    latencies_s = [latency_s for each in tallies for latency_s in each.latencies_s]
    num_events = len(latencies_s) + sum(each.missed for each in tallies)
    num_false = sum(each.false for each in tallies)
    num_spans = num_false + sum(each.quiet for each in tallies)
    result: dict[str, ScoreValue] = {}
    if num_events:
        result["recall"] = ScoreValue(len(latencies_s) / num_events, num_events)
    if num_spans:
        fp_rate = num_false / num_spans
        result["fp_rate"] = ScoreValue(fp_rate, num_spans)
        result["ranked"] = ScoreValue(fp_rate <= MAX_FP_RATE, num_spans)
    if latencies_s:
        for percentile in PERCENTILES:
            value = float(np.percentile(latencies_s, percentile))
            result[f"latency_p{percentile}_s"] = ScoreValue(value, len(latencies_s))
    return result


def read_gold(file: Path) -> dict[str, Any]:
    """Read the gold times of a conversation.

    Raises:
        ValueError: the file does not have the layout above, or its times do not increase.
    """
    try:
        gold: dict[str, Any] = json.loads(file.read_text())
        unsorted = _first_unsorted(gold)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} holds no gold times ({type(error).__name__}: {error}); see {__name__}"
        ) from None
    if unsorted is not None:
        raise ValueError(f"{file}: times of {unsorted} do not increase; sort them")
    return gold


def _first_unsorted(gold: Mapping[str, Any]) -> str | None:
    """`<speaker>.<event>` of the first times that do not increase; None if all do."""
    unsorted = None
    for speaker in SPEAKERS:
        for event in EVENTS:
            for times in (gold[speaker][event], *gold[speaker][f"{event}_negative"]):
                increases = all(a < b for a, b in itertools.pairwise(times))
                # No early return: a missing key further on is the more important error.
                if not increases and unsorted is None:
                    unsorted = f"{speaker}.{event}"
    return unsorted
