"""The report as one HTML file that needs no network, no script and no other file."""

from pathlib import Path
from typing import Any

from reporting.render import render
from sweeps.report import figures
from sweeps.report.answer import answer, shown
from sweeps.report.gather import Gathered, Point, differences
from sweeps.report.statistics import MAX_LEVELS, importance, noise, settings, tied
from sweeps.report.sweep_file import is_seed

TEMPLATE = Path(__file__).with_name("page.html")


def page(gathered: Gathered) -> str:
    """The whole file."""
    finished = bool(gathered.finished)
    return render(
        TEMPLATE, sweep=gathered.file, gathered=gathered, answer=answer(gathered), finished=finished,
        lines=figures.lines(gathered) if finished else "", parallel=figures.parallel(gathered) if finished else "",
        bars=figures.bars(gathered) if importance(gathered) else "", caveat=caveat(gathered),
        spread_over=spread_over(gathered), settings=setting_rows(gathered), columns=score_columns(gathered),
        differences=differences(gathered.points, gathered.file), commits=commits(gathered), score=score,
        noise=noise(settings(gathered)), is_seed=is_seed,
    )  # fmt: skip


def setting_rows(gathered: Gathered) -> list[dict[str, Any]]:
    """The table of settings, the best first."""
    found, metric = settings(gathered), gathered.file.metric
    same = tied(found[0], found[1:], noise(found)) if found else []
    return [
        {
            "parameters": each.parameters, "mean": shown(metric, each.mean), "seeds": len(each.scores),
            "deviation": "" if each.deviation is None else shown(metric, each.deviation),
            "low": shown(metric, min(each.scores)), "high": shown(metric, max(each.scores)),
            "note": "best" if each is found[0] else "within seed noise" if each in same else "",
        }
        for each in found
    ]  # fmt: skip


def score_columns(gathered: Gathered) -> list[str]:
    """Scores of the table of points: the metric, the other scores on test data, the time."""
    names = {name for point in gathered.finished for name in point.scores}
    others = sorted(name for name in names if name.startswith("test/") or name == "time/total_s")
    return list(dict.fromkeys([gathered.file.metric, *others]))


def score(point: Point, name: str) -> str:
    """A cell of that table."""
    return shown(name, point.scores[name]) if name in point.scores else ""


def spread_over(gathered: Gathered) -> str:
    """What the points of one place in the figure differ in."""
    file = gathered.file
    names = [name for name in file.swept if name not in (file.x, file.line)]
    return " and ".join(["seeds" if is_seed(name) else name for name in names])


def commits(gathered: Gathered) -> dict[str, list[str]]:
    """Commit -> runs."""
    found: dict[str, list[str]] = {}
    for point in gathered.points:
        for commit in point.commits or (["unknown"] if point.run else []):
            found.setdefault(commit, []).append(point.run)
    return found


def caveat(gathered: Gathered) -> str:
    """What importance does not say here."""
    words = []
    if gathered.unfinished:
        words.append("Points are missing, so shares may overlap.")
    if noise(settings(gathered)) is None:
        words.append("No setting has two seeds: how much of a share is seed noise is unknown.")
    if gathered.file.method != "grid":
        words.append(
            f"The points are no grid; of more than {MAX_LEVELS} numbers of a parameter, groups were made."
        )
    return " ".join(words)
