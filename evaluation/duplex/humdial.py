"""HumDial-FDBench (arXiv 2604.21406): interruptions to answer, and speech to go on through.

A scenario is a folder of `<item>.wav`, `<item>.json` with the user's speech, and for most
`clean_<item>.wav`, the same without the event. Words are emitted, not spoken, so that times are
those of the text; behaviour needs a judge (JUDGE_URL, JUDGE_MODEL).
"""

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from evaluation.console import print_scores, with_progress, write_lines
from evaluation.duplex.full_duplex_bench.backchannels import spans_of
from evaluation.duplex.full_duplex_bench.baseline_replies import replies
from evaluation.duplex.full_duplex_bench.judged import behaviours_of
from evaluation.duplex.full_duplex_bench.timing import Span, timing
from evaluation.duplex.full_duplex_bench.words import Word, transcript, words_of
from evaluation.duplex.systems import open_baselines, setting_name
from evaluation.duplex.systems.spans import open_spans
from evaluation.finished_run import open_run, read_recording
from evaluation.record import ScoreValue
from evaluation.voicebench.command import judge_from_environment
from evaluation.voicebench.judge import Judge, ask_all
from evaluation.voicebench.responses import Response
from lightning_modules.sessions import open_sessions

INTERRUPTIONS = ("ask", "deny", "repeat", "shift", "wait")
"""Scenarios in which the user interrupts: the model should respond."""
REJECTIONS = (
    "backchannel",
    "pause",
    "talk_to_others",
    "others_talk_to_user_after",
    "others_talk_to_user_before",
)
"""Scenarios in which the model should go on, or stay silent."""
BEFORE_REPLY = ("pause", "others_talk_to_user_before")
"""Of these, those before any answer: scored by how often the model keeps silent."""
DELAY_SCORE = (0.624, 2.531, 40.0)
"""Delay of 100 points, delay of the lowest ones, and how many fewer those are. From the published
rows; the paper's formula is not known."""
DIGITS = 3
"""Digits to which means of a scenario are rounded."""


class Item(NamedTuple):
    """A recording and what its user says."""

    wav: Path
    scenario: str
    segments: list[tuple[float, float, str]]
    """Begin, end and words of the user's speech, and of others'."""


class SystemOutput(NamedTuple):
    """What a system emitted for an item."""

    item: Item
    words: Sequence[Word]
    clean: Sequence[Word]
    user_spans: Sequence[Span]


def find_items(folder: Path) -> list[Item]:
    """Find the items of all scenarios below a folder.

    Raises:
        ValueError: there is none, or an annotation cannot be read.
    """
    items = []
    for wav in sorted(folder.rglob("*.wav")):
        scenario = wav.parent.name.lower()
        is_clean = wav.name.startswith("clean_")
        if scenario in (*INTERRUPTIONS, *REJECTIONS) and not is_clean:
            items.append(Item(wav, scenario, _segments(wav.with_suffix(".json"))))
    if not items:
        raise ValueError(
            f"{folder}: no wav in folders named {', '.join((*INTERRUPTIONS, *REJECTIONS))}; give "
            "a language of HumDial-FDBench's test set, such as test/en_test_nondev"
        )
    return items


def _segments(file: Path) -> list[tuple[float, float, str]]:
    try:
        segments = []
        for value in json.loads(file.read_text())["speech_segments"]:
            times_s = float(value["xmin"]), float(value["xmax"])
            segments.append((*times_s, str(value["text"])))
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}; put the annotation beside its wav") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file}: no speech_segments with times ({error}); fetch it again"
        ) from None
    if not segments:
        raise ValueError(f"{file}: speech_segments is empty; fetch it again")
    return segments


def first_response_delay_s(output: SystemOutput) -> float | None:
    """Time from the end of the first speech to the first word; None if it is not positive."""
    if not output.words:
        return None
    delay_s = output.words[0].start_s - output.item.segments[0][1]
    return delay_s if delay_s > 0 else None


def keeps_silent(output: SystemOutput) -> bool:
    """Whether no word begins between the end of the first speech and the begin of the last."""
    from_s = output.item.segments[0][1]
    until_s = output.item.segments[-1][0]
    return not any(from_s <= word.start_s < until_s for word in output.words)


def delays_s(outputs: Sequence[SystemOutput]) -> dict[str, float]:
    """Mean of each kind of delay over the scenarios that have some: stop and response in
    interruptions, first response in all."""
    by_scenario: dict[str, dict[str, list[float]]] = {}
    for output in outputs:
        values = by_scenario.setdefault(
            output.item.scenario, {"stop": [], "response": [], "first": []}
        )
        first_s = first_response_delay_s(output)
        if first_s is not None:
            values["first"].append(first_s)
        if output.item.scenario in INTERRUPTIONS:
            times = timing(output.user_spans, spans_of(output.words))
            values["stop"] += times["stop_latency_s"]
            values["response"] += times["response_latency_s"]
    result = {}
    for kind in ("stop", "response", "first"):
        means = []
        for values in by_scenario.values():
            # A scenario without such a delay does not count, as one item without it does not.
            if values[kind]:
                means.append(round(statistics.fmean(values[kind]), DIGITS))
        if means:
            result[kind] = round(statistics.fmean(means), DIGITS)
    return result


def delay_points(delay_s: float) -> float:
    """Points for the mean delay."""
    # Halving the delay gains as many points at any delay.
    best_s, worst_s, range_points = DELAY_SCORE
    return 100 - range_points * math.log(delay_s / best_s) / math.log(worst_s / best_s)


def scores_of(
    outputs: Sequence[SystemOutput], behaviours: Mapping[str, str]
) -> dict[str, ScoreValue]:
    """Scores of a system.

    Args:
        outputs: what it emitted.
        behaviours: file -> behaviour according to a judge; empty without one.
    """
    values: dict[str, ScoreValue] = {}
    for scenario in (*INTERRUPTIONS, *REJECTIONS):
        of_scenario = [output for output in outputs if output.item.scenario == scenario]
        cases: list[bool] = []
        # Whoever resumes has heard the interruption as noise, and the other way round.
        wanted = "C_RESPOND" if scenario in INTERRUPTIONS else "C_RESUME"
        if scenario in BEFORE_REPLY:
            cases = [keeps_silent(output) for output in of_scenario]
        else:
            names = [str(output.item.wav) for output in of_scenario]
            cases = [behaviours[name] == wanted for name in names if name in behaviours]
        if cases:
            group = "interruption" if scenario in INTERRUPTIONS else "rejection"
            rate = round(statistics.fmean(cases), DIGITS)
            values[f"{group}/{scenario}/rate"] = ScoreValue(rate, len(cases))
    _add_means(values)
    delays = delays_s(outputs)
    for kind, delay_s in delays.items():
        values[f"{kind}_delay_s"] = ScoreValue(delay_s, len(outputs))
    if len(delays) == 3:
        mean_s = round(statistics.fmean(delays.values()), DIGITS)
        values["delay_s"] = ScoreValue(mean_s, len(outputs))
        parts = ("interruption/respond_rate", "rejection/rate")
        # The final score is one of all scenarios.
        if all(part in values for part in parts):
            points = sum(0.4 * 100 * values[part].value for part in parts)
            points += 0.2 * delay_points(mean_s)
            values["num_final"] = ScoreValue(points, len(outputs))
    return values


def _add_means(values: dict[str, ScoreValue]) -> None:
    """Mean over the scenarios of each group, if all of them are scored."""
    groups = {
        "interruption/respond_rate": [f"interruption/{name}/rate" for name in INTERRUPTIONS],
        "rejection/rate": [f"rejection/{name}/rate" for name in REJECTIONS],
    }
    for key, parts in groups.items():
        if all(part in values for part in parts):
            mean = statistics.fmean(values[part].value for part in parts)
            values[key] = ScoreValue(round(mean, DIGITS), len(parts))


def judge_behaviour(
    outputs: Sequence[SystemOutput], judge: Judge, file: Path
) -> tuple[dict[str, str], list[str]]:
    """Behaviour in every item that is not scored by silence, and descriptions of problems."""
    responses = []
    for output in outputs:
        if output.item.scenario in BEFORE_REPLY:
            continue
        fields = {
            "input_clean": output.item.segments[0][2],
            "input_noisy": json.dumps(output.item.segments),
            "output_clean": json.dumps(transcript(output.clean)),
            "output_noisy": json.dumps(transcript(output.words)),
        }
        responses.append(Response(str(output.item.wav), fields, ""))
    answers, problems = ask_all("behaviour", responses, judge, file)
    return behaviours_of(answers), problems


def score(args: argparse.Namespace) -> dict[str, float]:
    """Score a run and baselines; the behaviour of baselines is not judged.

    Raises:
        ValueError: the run was not trained on dialogues, or the folder has no items.
        ImportError: a baseline needs a package that is not installed.
    """
    run = open_run(args.run, args.overrides)
    rate_hz = run.config.features.sample_rate_hz
    judge = judge_from_environment()
    open_session = open_sessions(run.checkpoint, run.config, run.folder)
    baselines = open_baselines(args.baseline, rate_hz)
    items = find_items(args.folder.resolve())
    find_spans, finder = open_spans(rate_hz)

    def say(samples: np.ndarray) -> list[Word]:
        events = open_session().push(torch.from_numpy(samples))
        return words_of(events, run.config.duplex.tokens_per_s)

    outputs: list[SystemOutput] = []
    of_baselines: dict[str, list[SystemOutput]] = {}
    for item in with_progress(items, "items"):
        samples = read_recording(item.wav, run.config)
        clean_wav = item.wav.with_name(f"clean_{item.wav.name}")
        # Only a judge looks at the output without the event.
        compares = judge is not None and clean_wav.exists()
        clean = say(read_recording(clean_wav, run.config)) if compares else []
        user_spans = find_spans(samples)
        outputs.append(SystemOutput(item, say(samples), clean, user_spans))
        for system in baselines:
            heard = system.listen(samples)
            for setting, threshold in system.operating_points.items():
                name = setting_name(system.name, setting)
                output = SystemOutput(item, replies(heard, threshold), [], user_spans)
                of_baselines.setdefault(name, []).append(output)
    behaviours: dict[str, str] = {}
    if judge is not None:
        file = run.folder / "scores" / "humdial_judge.jsonl"
        behaviours, problems = judge_behaviour(outputs, judge, file)
        write_lines(file.with_suffix(".troubles.jsonl"), problems)
    values = scores_of(outputs, behaviours)
    for name, said_by in of_baselines.items():
        for key, value in scores_of(said_by, {}).items():
            values[f"baseline/{name}/{key}"] = value
    title = f"HumDial-FDBench, {len(items)} items; speech of the user found by {finder}"
    return print_scores(values, run.titled(title))
