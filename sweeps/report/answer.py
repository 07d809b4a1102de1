"""What a sweep found, in sentences made from its numbers."""

from collections.abc import Mapping
from typing import Any

from sweeps.report.gather import Gathered
from sweeps.report.statistics import Noise, Setting, distinct, noise, settings, tied
from sweeps.report.sweep_file import is_seed

SHARES = ("wer", "cer", "accuracy", "exact_match", "f1", "recall", "precision", "share")
"""Metrics that end so are shown in percent."""


def answer(gathered: Gathered) -> list[str]:
    """The answer, and whether it is more than seed noise; then what else there is to know, each by itself."""
    found, file = settings(gathered), gathered.file
    if not found:
        return [
            f"There is no answer yet: no point has finished with {file.metric}.",
            *gaps(gathered),
        ]
    best, seeds = found[0], noise(found)
    if len(found) == 1:
        return [_alone(best, seeds, gathered), *gaps(gathered)]
    least = "lowest" if file.goal == "minimize" else "highest"
    sentences = [
        f"{named(best.parameters, gathered)} has the {least} {file.metric} of {len(found)} settings: "
        f"{shown(file.metric, best.mean)}{_seeds(best, file.metric)}."
    ]
    sentences[0] += " " + _next_best(best, found[1], seeds, gathered)
    sentences += _ties(best, found[1:], seeds, gathered)
    return sentences + per_line(gathered, found, seeds) + gaps(gathered)


def per_line(gathered: Gathered, found: list[Setting], seeds: Noise | None) -> list[str]:
    """The best value across, for each line of the figure; nothing where that is all, or where more was swept."""
    file = gathered.file
    if file.line is None or {file.x, file.line} != {
        name for name in file.swept if not is_seed(name)
    }:
        return []
    sentences = []
    for value in distinct(setting.parameters[file.line] for setting in found):
        best, *others = [setting for setting in found if setting.parameters[file.line] == value]
        same = " and ".join(str(other.parameters[file.x]) for other in tied(best, others, seeds))
        apart = f"; {same} cannot be told apart from it" if same else ""
        score = shown(file.metric, best.mean)
        sentences.append(
            f"With {file.line}={value}, best is {file.x}={best.parameters[file.x]} ({score}){apart}."
        )
    return sentences


def gaps(gathered: Gathered) -> list[str]:
    """What there is no score of."""
    states = [point.state for point in gathered.unfinished]
    if not states:
        return []
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    return [f"{len(states)} of {len(gathered.points)} points have no score ({counts})."]


def named(parameters: Mapping[str, Any], gathered: Gathered) -> str:
    """A setting by the parameters that were swept."""
    swept = [name for name in parameters if name in gathered.file.swept and not is_seed(name)]
    return ", ".join(f"{name}={parameters[name]}" for name in swept)


def shown(metric: str, value: float) -> str:
    """A score as people read it."""
    return f"{value:.2%}".replace("%", " %") if is_share(metric) else f"{value:.4g}"


def is_share(metric: str) -> bool:
    return metric.endswith(SHARES)


def _apart(metric: str, difference: float) -> str:
    """A difference of two scores; that of two percentages is in points."""
    return f"{100 * abs(difference):.2f} points" if is_share(metric) else f"{abs(difference):.3g}"


def _seeds(setting: Setting, metric: str) -> str:
    if setting.deviation is None:
        return " (one seed)"
    low, high = shown(metric, min(setting.scores)), shown(metric, max(setting.scores))
    return f" (mean of {len(setting.scores)} seeds, from {low} to {high})"


def _alone(setting: Setting, seeds: Noise | None, gathered: Gathered) -> str:
    """Where nothing is compared: how far apart two runs are by chance."""
    metric, words = gathered.file.metric, named(setting.parameters, gathered)
    where = f"With {words}, " if words else ""
    text = f"{where}{metric} is {shown(metric, setting.mean)}{_seeds(setting, metric)}."
    if seeds is None:
        return text
    run = Setting(setting.parameters, setting.scores[:1])
    return f"{text} Seeds alone put two runs up to {_apart(metric, seeds.allows(run, run))} apart, in 95 of 100 pairs."


def _next_best(best: Setting, second: Setting, seeds: Noise | None, gathered: Gathered) -> str:
    metric = gathered.file.metric
    difference = best.mean - second.mean
    text = f"The next best, {named(second.parameters, gathered)}, is {_apart(metric, difference)} worse"
    if seeds is None:
        return (
            f"{text}; no setting has two seeds, so whether that is more than seed noise is unknown."
        )
    allowed = seeds.allows(best, second)
    if abs(difference) <= allowed:
        return (
            f"{text}, which cannot be told apart from seed noise (up to {_apart(metric, allowed)})."
        )
    return f"{text}, which is more than seed noise (up to {_apart(metric, allowed)})."


def _ties(
    best: Setting, others: list[Setting], seeds: Noise | None, gathered: Gathered
) -> list[str]:
    """Those that might be the best as well, where there are more than the next one."""
    same = tied(best, others, seeds)
    if len(same) < 2:
        return []
    names = "; ".join(named(setting.parameters, gathered) for setting in same)
    return [
        f"{len(same)} of the other {len(others)} settings cannot be told apart from the best: {names}."
    ]
