"""eot-bench (livekit/eot-bench-data): false cut-offs in pauses against latency at ends of turns."""

import argparse
import collections
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.sources.audio_sources import ParquetSource, open_parquet
from evaluation.console import print_scores, with_progress
from evaluation.duplex.eot_policy import (
    CUTOFF_BUDGETS,
    LATENCY_BUDGETS_S,
    Silence,
    cutoff_rate_within,
    is_scored,
    latency_within_s,
    sweep,
)
from evaluation.duplex.systems import open_baselines
from evaluation.duplex.systems.own import NAME as MODEL
from evaluation.duplex.systems.own import open_model
from evaluation.duplex.turn_scores import Listen, TurnScores, at
from evaluation.finished_run import open_run, read_recording
from evaluation.record import ScoreValue

INTERVAL_S = 0.1
"""A probability is asked for this often in a silence, and at its end."""
SHORTEST_SILENCE_S = 0.1
"""Shorter ones are skipped."""
NUM_ENGLISH = (705, 400)
"""Holds and ends of the English data."""
COLUMNS = ("id", "language", "silence_spans")
Prediction = dict[str, Any]
"""A row as `eot-harness compute-metrics` reads it."""


class Row(NamedTuple):
    """A turn of a user."""

    id: str
    language: str
    audio: ParquetSource
    spans: list[tuple[float, float]]
    """Silences; the last one is the end of the turn."""


def read_rows(folder: Path) -> list[Row]:
    """Read the rows of all parquet files below a folder.

    Raises:
        ValueError: there is none, or a file lacks a column.
    """
    rows = [row for file in sorted(folder.rglob("*.parquet")) for row in _read_file(file)]
    if not rows:
        raise ValueError(
            f"{folder}: no rows in parquet files below it; download livekit/eot-bench-data"
        )
    return rows


def _read_file(file: Path) -> Iterator[Row]:
    with open_parquet(str(file)) as parquet:
        absent = {*COLUMNS, "audio"} - set(parquet.schema_arrow.names)
        if absent:
            raise ValueError(
                f"{file} has no column {', '.join(sorted(absent))}; move files that are not "
                "eot-bench's out of the folder"
            )
        for group in range(parquet.num_row_groups):
            values = parquet.read_row_group(group, columns=list(COLUMNS)).to_pylist()
            for number, row in enumerate(values):
                where = f"{file}, row group {group}, row {number}"
                source = ParquetSource(str(file), group, number, "audio")
                spans = _spans(row["silence_spans"], where)
                yield Row(str(row["id"]), row["language"], source, spans)


def _spans(values: Any, where: str) -> list[tuple[float, float]]:
    spans = []
    for value in values or []:
        spans.append((float(value["start"]), float(value["end"])))
    in_order = spans == sorted(spans)
    if not spans or not in_order or any(start_s >= end_s for start_s, end_s in spans):
        raise ValueError(f"{where}: silence_spans are empty or not in order; download it again")
    return spans


def twice_as_often(listen: Listen, rate_hz: int, step_s: float) -> Listen:
    """Let a system hear everything a second time, half a step later.

    Args:
        listen: the system, which scores every `step_s`.
        rate_hz: sample rate.
        step_s: length of its step.

    Returns:
        The system with the scores of both passes, every `step_s` / 2. Each still depends on no
        audio after its time.
    """
    shift = round(step_s / 2 * rate_hz)

    def listen_twice(samples: np.ndarray) -> TurnScores:
        silence = np.zeros(shift, samples.dtype)
        shifted = listen(np.concatenate([silence, samples]))
        # On the clock of the recording, which began after the silence.
        shifted = shifted._replace(times_s=shifted.times_s - shift / rate_hz)
        first = listen(samples)
        times_s = np.concatenate([first.times_s, shifted.times_s])
        ended = np.concatenate([first.ended, shifted.ended])
        addressed = np.concatenate([first.addressed, shifted.addressed])
        order = np.argsort(times_s, kind="stable")
        return TurnScores(times_s[order], ended[order], addressed[order])

    return listen_twice


def times_in(start_s: float, end_s: float) -> list[float]:
    """Times in a silence at which a probability is asked for."""
    count = int((end_s - start_s) / INTERVAL_S + 1e-6)
    times_s = [start_s + step * INTERVAL_S for step in range(count + 1)]
    if end_s - times_s[-1] > 1e-6:
        times_s.append(end_s)
    return times_s


def predict(row: Row, scores: TurnScores) -> list[Prediction]:
    """Predictions of a system for the silences of a row."""
    predictions = []
    for index, (start_s, end_s) in enumerate(row.spans):
        if end_s - start_s < SHORTEST_SILENCE_S - 1e-9:
            continue
        label = "eot" if index == len(row.spans) - 1 else "hold"
        times_s = times_in(start_s, end_s)
        values = at(scores, scores.ended, np.array(times_s))
        for time_s, value in zip(times_s, values.tolist(), strict=True):
            predictions.append(
                {
                    "id": row.id,
                    "language": row.language,
                    "span_index": index,
                    "timestamp": time_s,
                    "silence_dur": time_s - start_s,
                    "p_eot": value,
                    "label": label,
                }
            )
    return predictions


def silences_of(predictions: list[Prediction]) -> dict[str, list[Silence]]:
    """Language -> silences that count."""
    # Languages are scored apart, as on the leaderboard.
    grouped: dict[tuple[str, str, int], list[Prediction]] = collections.defaultdict(list)
    for each in predictions:
        grouped[each["language"], each["id"], each["span_index"]].append(each)
    silences: dict[str, list[Silence]] = collections.defaultdict(list)
    for (language, _, _), rows in grouped.items():
        silence = Silence(
            is_end=rows[0]["label"] == "eot",
            duration_s=rows[-1]["silence_dur"],
            after_s=[row["silence_dur"] for row in rows],
            ended=[row["p_eot"] for row in rows],
        )
        if is_scored(silence):
            silences[language].append(silence)
    return silences


def scores_of(silences: Mapping[str, list[Silence]]) -> dict[str, ScoreValue]:
    """Scores of each language, at the budgets of the leaderboard.

    A budget that no policy keeps is left out.
    """
    values: dict[str, ScoreValue] = {}
    for language, of_language in silences.items():
        points = sweep(of_language)
        count = len(of_language)
        for budget_s in LATENCY_BUDGETS_S:
            rate = cutoff_rate_within(points, budget_s)
            if rate is not None:
                key = f"{language}/cutoff_rate_within_{1000 * budget_s:.0f}ms"
                values[key] = ScoreValue(rate, count)
        for budget in CUTOFF_BUDGETS:
            latency_s = latency_within_s(points, budget)
            if latency_s is not None:
                key = f"{language}/latency_at_{100 * budget:.0f}_percent_ms"
                values[key] = ScoreValue(1000 * latency_s, count)
    return values


def score(args: argparse.Namespace) -> dict[str, float]:
    """Score a run and baselines; writes predictions.parquet for the benchmark's own harness.

    Raises:
        ValueError: the run was not trained on dialogues, or the data are not as published.
        ImportError: a baseline needs a package that is not installed.
    """
    run = open_run(args.run, args.overrides)
    rate_hz = run.config.features.sample_rate_hz
    model = open_model(run)
    step_s = run.config.duplex.slice_ms / 1000
    # Slices of 200 ms, a second time 100 ms later: 10 Hz, as often as the benchmark asks.
    model = model._replace(listen=twice_as_often(model.listen, rate_hz, step_s))
    systems = [model, *open_baselines(args.baseline, rate_hz)]
    rows = read_rows(args.folder.resolve())
    predictions: dict[str, list[Prediction]] = {system.name: [] for system in systems}
    # Sound is read here and not kept: the English turns alone are an hour of it.
    for row in with_progress(rows, "turns"):
        samples = read_recording(row.audio, run.config)
        for system in systems:
            predictions[system.name] += predict(row, system.listen(samples))
    values: dict[str, ScoreValue] = {}
    for system in systems:
        prefix = "" if system.name == MODEL else f"baseline/{system.name}/"
        folder = run.folder / "scores" / "eot_bench" / system.name
        _write(predictions[system.name], folder)
        silences = silences_of(predictions[system.name])
        values |= {prefix + key: value for key, value in scores_of(silences).items()}
    english = silences_of(predictions[MODEL]).get("en", [])
    num_ends = sum(silence.is_end for silence in english)
    num_holds = len(english) - num_ends
    # A part of the data has other rates than the leaderboard's.
    is_whole = (num_holds, num_ends) == NUM_ENGLISH
    values["data/official"] = ScoreValue(float(is_whole), len(english))
    return print_scores(values, run.titled(f"eot-bench, {len(rows)} turns"))


def _write(predictions: list[Prediction], folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(predictions), folder / "predictions.parquet")
