"""The result of a sweep in sentences made from its numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.report.gather import SweepResults
from sweeps.report.statistics import (
    SeedNoise,
    Setting,
    distinct,
    rank_settings,
    seed_noise,
    tied_with,
)
from sweeps.report.sweep_file import is_seed

SHARES = ("wer", "cer", "accuracy", "exact_match", "f1", "recall", "precision", "share")
"""Endings of metrics that are shown in percent."""


def answer(results: SweepResults) -> list[str]:
    """Sentences about a sweep.

    The first one answers the question and says whether the answer is more than seed noise. The
    others name ties, the best value for each line of the figure, and missing trials.
    """
    settings = rank_settings(results)
    file = results.file
    if not settings:
        first = f"There is no answer yet: no point has finished with {file.metric}."
        return [first, *describe_gaps(results)]
    best = settings[0]
    noise = seed_noise(settings)
    if len(settings) == 1:
        return [_describe_single(best, noise, results), *describe_gaps(results)]
    superlative = "lowest" if file.goal == "minimize" else "highest"
    first = (
        f"{name_setting(best.parameters, results)} has the {superlative} {file.metric} "
        f"of {len(settings)} settings: {format_value(file.metric, best.mean)}"
        f"{_describe_seeds(best, file.metric)}."
    )
    first += " " + _compare_with_second(best, settings[1], noise, results)
    return [
        first,
        *_describe_ties(best, settings[1:], noise, results),
        *describe_lines(results, settings, noise),
        *describe_gaps(results),
    ]


def describe_lines(
    results: SweepResults, settings: Sequence[Setting], noise: SeedNoise | None
) -> list[str]:
    """The best value on the horizontal axis, for each line of the figure.

    The list is empty if the figure has a single line, or if it does not show all swept parameters.
    """
    file = results.file
    swept = {name for name in file.swept if not is_seed(name)}
    if file.line is None or {file.x, file.line} != swept:
        return []
    sentences = []
    for value in distinct(setting.parameters[file.line] for setting in settings):
        # The settings are sorted, so the first one of a line is its best.
        on_line = [setting for setting in settings if setting.parameters[file.line] == value]
        best = on_line[0]
        tied = tied_with(best, on_line[1:], noise)
        tied_values = " and ".join(str(setting.parameters[file.x]) for setting in tied)
        ties = f"; {tied_values} cannot be told apart from it" if tied else ""
        score = format_value(file.metric, best.mean)
        best_value = best.parameters[file.x]
        sentences.append(
            f"With {file.line}={value}, best is {file.x}={best_value} ({score}){ties}."
        )
    return sentences


def describe_gaps(results: SweepResults) -> list[str]:
    """Numbers of trials without a score, by state; empty if there are none."""
    counts = Counter(trial.state for trial in results.unfinished)
    if not counts:
        return []
    states = ", ".join(f"{counts[state]} {state}" for state in sorted(counts))
    num_unfinished = len(results.unfinished)
    return [f"{num_unfinished} of {len(results.trials)} points have no score ({states})."]


def name_setting(parameters: Mapping[str, Any], results: SweepResults) -> str:
    """A setting by the parameters that were swept, seeds excepted."""
    names = []
    for name, value in parameters.items():
        if name in results.file.swept and not is_seed(name):
            names.append(f"{name}={value}")
    return ", ".join(names)


def format_value(metric: str, value: float) -> str:
    """A score in percent if the metric is a share, else with four digits."""
    if is_share(metric):
        return f"{100 * value:.2f} %"
    return f"{value:.4g}"


def is_share(metric: str) -> bool:
    """Whether a metric is shown in percent."""
    return metric.endswith(SHARES)


def _format_difference(metric: str, difference: float) -> str:
    """A difference of two scores; that of two percentages is in points."""
    if is_share(metric):
        return f"{100 * abs(difference):.2f} points"
    return f"{abs(difference):.3g}"


def _describe_seeds(setting: Setting, metric: str) -> str:
    """Number of seeds and range of their scores, in parentheses."""
    num_seeds = len(setting.scores)
    if num_seeds == 1:
        return " (one seed)"
    low = format_value(metric, min(setting.scores))
    high = format_value(metric, max(setting.scores))
    return f" (mean of {num_seeds} seeds, from {low} to {high})"


def _describe_single(setting: Setting, noise: SeedNoise | None, results: SweepResults) -> str:
    """The score of the only setting, and the difference of two of its runs by chance."""
    metric = results.file.metric
    name = name_setting(setting.parameters, results)
    prefix = f"With {name}, " if name else ""
    score = format_value(metric, setting.mean)
    text = f"{prefix}{metric} is {score}{_describe_seeds(setting, metric)}."
    if noise is None:
        return text
    single_run = Setting(setting.parameters, setting.scores[:1])
    limit = _format_difference(metric, noise.max_difference(single_run, single_run))
    return f"{text} Seeds alone put two runs up to {limit} apart, in 95 of 100 pairs."


def _compare_with_second(
    best: Setting, second: Setting, noise: SeedNoise | None, results: SweepResults
) -> str:
    """The difference from the second best setting, and whether seeds explain it."""
    metric = results.file.metric
    difference = best.mean - second.mean
    name = name_setting(second.parameters, results)
    text = f"The next best, {name}, is {_format_difference(metric, difference)} worse"
    if noise is None:
        return (
            f"{text}; no setting has two seeds, so whether that is more than seed noise is unknown."
        )
    limit = noise.max_difference(best, second)
    up_to = f"(up to {_format_difference(metric, limit)})"
    if abs(difference) <= limit:
        return f"{text}, which cannot be told apart from seed noise {up_to}."
    return f"{text}, which is more than seed noise {up_to}."


def _describe_ties(
    best: Setting, others: Sequence[Setting], noise: SeedNoise | None, results: SweepResults
) -> list[str]:
    """The settings that may be the best as well; empty if only the second one may be."""
    tied = tied_with(best, others, noise)
    if len(tied) < 2:
        return []
    names = "; ".join(name_setting(setting.parameters, results) for setting in tied)
    return [
        f"{len(tied)} of the other {len(others)} settings cannot be told apart from the best: "
        f"{names}."
    ]
