"""The result of a sweep in sentences made from its numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reporting.values import distinct, format_difference, format_score
from sweeps.report.gather import SweepResults
from sweeps.report.statistics import SeedNoise, Setting, rank_settings, seed_noise, tied_with
from sweeps.report.sweep_file import is_seed


def answer(results: SweepResults) -> list[str]:
    """Sentences about a sweep.

    The first one answers the question and says whether the answer is more than seed noise. The
    others name ties, the best value for each line of the figure, and missing trials.

    Args:
        results: of the sweep.

    Returns:
        At least one sentence.
    """
    settings = rank_settings(results)
    if not settings:
        first = f"There is no answer yet: no point has finished with {results.file.metric}."
        return [first, *describe_gaps(results)]
    best = settings[0]
    others = settings[1:]
    noise = seed_noise(settings)
    if not others:
        return [_describe_single(best, noise, results), *describe_gaps(results)]
    first = _describe_best(settings, results)
    comparison = _compare_with_second(settings, noise, results)
    return [
        f"{first} {comparison}",
        *_describe_ties(best, others, noise, results),
        *describe_lines(results, settings, noise),
        *describe_gaps(results),
    ]


def describe_lines(
    results: SweepResults, settings: Sequence[Setting], noise: SeedNoise | None
) -> list[str]:
    """The best value on the horizontal axis, for each line of the figure.

    Args:
        results: of the sweep.
        settings: all settings, best first.
        noise: of their seeds; None if it is unknown.

    Returns:
        One sentence for each line; empty if the figure has a single line, or if it does not show
        all swept parameters.
    """
    file = results.file
    line = file.line
    swept = {name for name in file.swept if not is_seed(name)}
    # With another parameter, a line has several settings at each of its positions.
    if line is None or {file.x, line} != swept:
        return []
    sentences = []
    for value in distinct(setting.parameters[line] for setting in settings):
        on_line = [setting for setting in settings if setting.parameters[line] == value]
        text = _describe_best_on_line(on_line, file.x, file.metric, noise)
        sentences.append(f"With {line}={value}, {text}.")
    return sentences


def _describe_best_on_line(
    settings: Sequence[Setting], x_name: str, metric: str, noise: SeedNoise | None
) -> str:
    """The best value of the horizontal parameter, and values that tie with it.

    Args:
        settings: those of the line, best first.
        x_name: name of the parameter.
        metric: name of the score.
        noise: of the seeds; None if it is unknown.
    """
    best = settings[0]
    score = format_score(metric, best.mean)
    text = f"best is {x_name}={best.parameters[x_name]} ({score})"
    tied = tied_with(best, settings[1:], noise)
    if not tied:
        return text
    values = " and ".join(str(setting.parameters[x_name]) for setting in tied)
    return f"{text}; {values} cannot be told apart from it"


def describe_gaps(results: SweepResults) -> list[str]:
    """Numbers of trials without a score, by state; empty if there are none."""
    counts = Counter(trial.state for trial in results.unfinished)
    if not counts:
        return []
    states = ", ".join(f"{counts[state]} {state}" for state in sorted(counts))
    num_trials = len(results.trials)
    num_unfinished = len(results.unfinished)
    return [f"{num_unfinished} of {num_trials} points have no score ({states})."]


def name_setting(parameters: Mapping[str, Any], results: SweepResults) -> str:
    """A setting by the parameters that were swept, except seeds.

    Args:
        parameters: of the setting.
        results: of the sweep.

    Returns:
        `name=value, ...`; empty if only seeds were swept.
    """
    texts = []
    swept = results.file.swept
    for name, value in parameters.items():
        if name in swept and not is_seed(name):
            texts.append(f"{name}={value}")
    return ", ".join(texts)


def _describe_score(setting: Setting, metric: str) -> str:
    """Mean score of a setting, with the number of seeds and their range in parentheses."""
    mean = format_score(metric, setting.mean)
    num_seeds = len(setting.scores)
    if num_seeds == 1:
        return f"{mean} (one seed)"
    low = format_score(metric, min(setting.scores))
    high = format_score(metric, max(setting.scores))
    return f"{mean} (mean of {num_seeds} seeds, from {low} to {high})"


def _describe_single(setting: Setting, noise: SeedNoise | None, results: SweepResults) -> str:
    """The score of the only setting, and the difference of two of its runs by chance."""
    metric = results.file.metric
    name = name_setting(setting.parameters, results)
    prefix = f"With {name}, " if name else ""
    score = _describe_score(setting, metric)
    text = f"{prefix}{metric} is {score}."
    if noise is None:
        return text
    # Two runs are two settings with one seed each.
    single_run = Setting(setting.parameters, setting.scores[:1])
    limit = format_difference(metric, noise.max_difference(single_run, single_run))
    return f"{text} Seeds alone put two runs up to {limit} apart, in 95 of 100 pairs."


def _describe_best(settings: Sequence[Setting], results: SweepResults) -> str:
    """The best setting and its score."""
    metric = results.file.metric
    best = settings[0]
    name = name_setting(best.parameters, results)
    superlative = "lowest" if results.file.goal == "minimize" else "highest"
    score = _describe_score(best, metric)
    num_settings = len(settings)
    return f"{name} has the {superlative} {metric} of {num_settings} settings: {score}."


def _compare_with_second(
    settings: Sequence[Setting], noise: SeedNoise | None, results: SweepResults
) -> str:
    """The difference between the two best settings, and whether seeds explain it."""
    metric = results.file.metric
    best = settings[0]
    second = settings[1]
    name = name_setting(second.parameters, results)
    difference = best.mean - second.mean
    shown = format_difference(metric, difference)
    text = f"The next best, {name}, is {shown} worse"
    if noise is None:
        return (
            f"{text}; no setting has two seeds, so whether that is more than seed noise is unknown."
        )
    limit = noise.max_difference(best, second)
    shown = format_difference(metric, limit)
    up_to = f"(up to {shown})"
    if abs(difference) <= limit:
        return f"{text}, which cannot be told apart from seed noise {up_to}."
    return f"{text}, which is more than seed noise {up_to}."


def _describe_ties(
    best: Setting, others: Sequence[Setting], noise: SeedNoise | None, results: SweepResults
) -> list[str]:
    """The settings that may be the best as well; empty if only the second one may be."""
    tied = tied_with(best, others, noise)
    # The comparison with the second best names a single tie already.
    if len(tied) < 2:
        return []
    names = "; ".join(name_setting(setting.parameters, results) for setting in tied)
    return [
        f"{len(tied)} of the other {len(others)} settings cannot be told apart from the best: "
        f"{names}."
    ]
