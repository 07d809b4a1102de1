"""The report as one HTML file that needs no network, no script and no other file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reporting.render import render
from reporting.values import format_score
from sweeps.report import figures
from sweeps.report.answer import answer
from sweeps.report.gather import SweepResults, Trial, differences
from sweeps.report.statistics import (
    MAX_LEVELS,
    Setting,
    importance,
    rank_settings,
    seed_noise,
    tied_with,
)
from sweeps.report.sweep_file import is_seed

TEMPLATE = Path(__file__).with_name("page.html")


def page(results: SweepResults) -> str:
    """Render the whole file."""
    # There is nothing to draw without a finished trial, nor an importance with a single one.
    has_scores = bool(results.finished)
    return render(
        TEMPLATE,
        sweep=results.file,
        results=results,
        answer=answer(results),
        finished=has_scores,
        lines=figures.scores_figure(results) if has_scores else "",
        parallel=figures.parallel_figure(results) if has_scores else "",
        bars=figures.importances_figure(results) if importance(results) else "",
        caveat=caveat(results),
        spread_over=spread_over(results),
        settings=setting_rows(results),
        columns=score_columns(results),
        differences=differences(results.trials, results.file),
        commits=commits(results),
        score=score_cell,
        noise=seed_noise(rank_settings(results)),
        is_seed=is_seed,
    )


def setting_rows(results: SweepResults) -> list[dict[str, Any]]:
    """The table of settings as text, the best first."""
    settings = rank_settings(results)
    if not settings:
        return []
    metric = results.file.metric
    best = settings[0]
    tied = tied_with(best, settings[1:], seed_noise(settings))
    table = []
    for setting in settings:
        deviation = ""
        if setting.deviation is not None:
            deviation = format_score(metric, setting.deviation)
        table.append(
            {
                "parameters": setting.parameters,
                "mean": format_score(metric, setting.mean),
                "seeds": len(setting.scores),
                "deviation": deviation,
                "low": format_score(metric, min(setting.scores)),
                "high": format_score(metric, max(setting.scores)),
                "note": _comparison(setting, best, tied),
            }
        )
    return table


def _comparison(setting: Setting, best: Setting, tied: Sequence[Setting]) -> str:
    """Last column of the table of settings."""
    if setting is best:
        return "best"
    return "within seed noise" if setting in tied else ""


def score_columns(results: SweepResults) -> list[str]:
    """Columns of the table of trials: the metric, the other scores on test data, the time."""
    others = set()
    # Other scores, such as the loss on training data, are in the run's own files.
    for trial in results.finished:
        for name in trial.scores:
            if name.startswith("test/") or name == "time/total_s":
                others.add(name)
    return list(dict.fromkeys([results.file.metric, *sorted(others)]))


def score_cell(trial: Trial, name: str) -> str:
    """A cell of the table of trials; empty if the trial lacks the score."""
    if name not in trial.scores:
        return ""
    return format_score(name, trial.scores[name])


def spread_over(results: SweepResults) -> str:
    """Parameters in which trials at the same position of the figure differ.

    Returns:
        Their names, or `seeds`; empty if there are none.
    """
    file = results.file
    names = []
    for name in file.swept:
        if name not in (file.x, file.line):
            names.append("seeds" if is_seed(name) else name)
    return " and ".join(names)


def commits(results: SweepResults) -> dict[str, list[str]]:
    """Git commit -> names of runs; `unknown` for runs without one."""
    runs: dict[str, list[str]] = {}
    for trial in results.trials:
        # A missing trial has no run.
        if not trial.run:
            continue
        for commit in trial.commits or ("unknown",):
            runs.setdefault(commit, []).append(trial.run)
    return runs


def caveat(results: SweepResults) -> str:
    """Reasons to read the importance of parameters with care."""
    sentences = []
    if results.unfinished:
        sentences.append("Points are missing, so shares may overlap.")
    if seed_noise(rank_settings(results)) is None:
        sentences.append("No setting has two seeds: how much of a share is seed noise is unknown.")
    if results.file.method != "grid":
        sentences.append(
            f"The points are no grid; of more than {MAX_LEVELS} numbers of a parameter, groups "
            "were made."
        )
    return " ".join(sentences)
