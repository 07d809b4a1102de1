"""The figures of a report, drawn from the results of its sweep."""

from collections.abc import Sequence

from reporting.sweep_figures import Series, draw_importances, draw_parallel, draw_scores
from reporting.values import distinct
from sweeps.report.gather import SweepResults, Trial
from sweeps.report.statistics import importance


def scores_figure(results: SweepResults) -> str:
    """Score against the parameter on the horizontal axis, as <svg>.

    It shows every trial. For a grid, whose trials repeat each other with other seeds, it also shows
    the mean over trials with equal parameters, and their range as a band.
    """
    file = results.file
    x_values = distinct(trial.parameters[file.x] for trial in results.finished)
    return draw_scores(
        _split_into_series(results),
        x_values,
        x_name=file.x,
        metric=file.metric,
        has_repeats=file.method == "grid",
    )


def _split_into_series(results: SweepResults) -> list[Series]:
    """One series for each value of the parameter that distinguishes lines."""
    parameter = results.file.line
    if parameter is None:
        return [_series("", results.finished, results)]
    # Not a dict, since values may be lists.
    values = distinct(trial.parameters[parameter] for trial in results.finished)
    groups: list[list[Trial]] = [[] for _ in values]
    for trial in results.finished:
        index = values.index(trial.parameters[parameter])
        groups[index].append(trial)
    series = []
    for value, trials in zip(values, groups, strict=True):
        label = f"{parameter}={value}"
        series.append(_series(label, trials, results))
    return series


def _series(label: str, trials: Sequence[Trial], results: SweepResults) -> Series:
    """Position and score of some trials."""
    x_values = []
    scores = []
    for trial in trials:
        x_values.append(trial.parameters[results.file.x])
        scores.append(results.score(trial))
    return Series(label, x_values, scores)


def parallel_figure(results: SweepResults) -> str:
    """Parallel coordinates, as <svg>.

    There is an axis for each swept parameter and for the score, and a line for each finished trial.
    """
    file = results.file
    # Lower scores are drawn first; colours show the order whichever direction is better.
    trials = sorted(results.finished, key=results.score)
    columns = {}
    for name in file.swept:
        columns[name] = [trial.parameters[name] for trial in trials]
    columns[file.metric] = [results.score(trial) for trial in trials]
    return draw_parallel(columns, file.metric, is_lower_better=file.sign > 0)


def importances_figure(results: SweepResults) -> str:
    """Importance of each swept parameter as a bar, with a mark at the share by chance, as <svg>."""
    shares = {}
    by_chance = {}
    for name, parameter in importance(results).items():
        shares[name] = parameter.share
        by_chance[name] = parameter.by_chance
    return draw_importances(shares, by_chance)
