"""The report as a shared one on Weights & Biases: the answer as text, and panels over the runs."""

from collections.abc import Sequence
from typing import Any

import wandb

# The library is optional, since only this report needs it.
try:
    import wandb_workspaces.reports.v2 as wr
except ImportError:
    raise ImportError(
        "a W&B report needs wandb-workspaces: pip install -e '.[reports]', or make report-wandb"
    ) from None

from sweeps.report.answer import answer
from sweeps.report.gather import SweepResults, differences
from sweeps.report.page import caveat, commits, setting_rows, spread_over
from sweeps.report.sweep_file import is_seed

MAX_TITLE_LETTERS = 128
"""Longest title that W&B accepts."""
SETTING_HEADINGS = ("deviation", "lowest", "highest", "seeds", "against the best")
"""Columns of the table of settings after the parameters and the mean."""
SETTING_KEYS = ("mean", "deviation", "low", "high", "seeds", "note")
"""Entries of `setting_rows` in the order of the columns."""


def save(results: SweepResults) -> str:
    """Save the report and return its address.

    Raises:
        ValueError: there is no W&B login, or no run was sent to W&B.
    """
    name = results.file.name
    if not wandb.login(prompt=False):
        raise ValueError(
            "no W&B login: run `wandb login` or set WANDB_API_KEY; "
            f"`make report SWEEP={name}` needs no account"
        )
    entity = wandb.Api().default_entity
    assert entity is not None
    return build(results, entity).save().url


def build(results: SweepResults, entity: str) -> wr.Report:
    """Build the report without saving it.

    Args:
        results: of the sweep.
        entity: W&B user or team.

    Raises:
        ValueError: no run was sent to W&B.
    """
    file = results.file
    first, *others = answer(results)
    project = _project(results)
    blocks: list[Any] = [
        wr.H1(file.question),
        wr.P(first),
        wr.UnorderedList(list[Any](others)),
        wr.H2(f"{file.metric} against {file.x}"),
        grid(results, entity, project),
        wr.H2("Settings, best first"),
        wr.MarkdownBlock(settings_table(results)),
        wr.H2("Failed and missing points"),
        wr.MarkdownBlock(gaps_table(results)),
        wr.H2("Other differences between the runs' configurations"),
        wr.MarkdownBlock(differences_table(results)),
        wr.H2("Cost and code"),
        wr.UnorderedList([file.cost, *commit_lines(results)]),
        wr.H2("Commands"),
        wr.MarkdownBlock(commands(results)),
    ]
    title = f"{file.name}: {file.question}"
    return wr.Report(
        project=project,
        entity=entity,
        title=title[:MAX_TITLE_LETTERS],
        description=first,
        blocks=blocks,
    )


def _project(results: SweepResults) -> str:
    """W&B project of the runs; the first by name if there are several."""
    projects = set()
    for trial in results.trials:
        if "wandb.project" in trial.config:
            projects.add(trial.config["wandb.project"])
    if not projects:
        raise ValueError(
            f"SWEEP={results.file.name}: no run has left its config.yaml, so there is nothing to "
            "show on W&B"
        )
    return min(projects)


def grid(results: SweepResults, entity: str, project: str) -> wr.PanelGrid:
    """Panels: means with their range, parallel coordinates, importance, and configurations.

    Args:
        results: of the sweep.
        entity: W&B user or team.
        project: W&B project of the runs.
    """
    file = results.file
    # W&B computes all panels from the runs that were sent to it.
    metric = wr.SummaryMetric(file.metric)
    spread = spread_over(results)
    over = f", from the lowest to the highest over {spread}" if spread else ""
    columns: list[Any] = [wr.Config(name) for name in file.swept]
    columns.append(metric)
    # A layout is x, y, width, height on a grid 24 columns wide.
    panels: list[Any] = [
        wr.BarPlot(
            title=f"mean {file.metric}{over}",
            metrics=[metric],
            groupby=wr.Config(file.x),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            orientation="v",
            layout=wr.Layout(0, 0, 12, 8),
        ),
        wr.ScatterPlot(x=wr.Config(file.x), y=metric, layout=wr.Layout(12, 0, 12, 8)),
        wr.ParallelCoordinatesPlot(
            columns=[wr.ParallelCoordinatesPlotColumn(column) for column in columns],
            layout=wr.Layout(0, 8, 24, 9),
        ),
        wr.ParameterImportancePlot(with_respect_to=file.metric, layout=wr.Layout(0, 17, 12, 9)),
        wr.RunComparer(diff_only="split", layout=wr.Layout(12, 17, 12, 9)),
    ]
    return wr.PanelGrid(runsets=runsets(results, entity, project), panels=panels)


def runsets(results: SweepResults, entity: str, project: str) -> list[wr.Runset]:
    """The finished runs, with one set for each line of the figure.

    Args:
        results: of the sweep.
        entity: W&B user or team.
        project: W&B project of the runs.
    """
    line = results.file.line
    groups: dict[str, list[str]] = {}
    for trial in results.finished:
        name = results.file.name
        if line:
            value = trial.parameters[line]
            name = f"{line}={value}"
        groups.setdefault(name, []).append(trial.run)
    sets = []
    for name, runs in groups.items():
        # The wandb-workspaces library parses this expression.
        filters = f"Metric('Name') in {runs}"
        sets.append(wr.Runset(entity=entity, project=project, name=name, filters=filters))
    return sets


def settings_table(results: SweepResults) -> str:
    """Settings, best first, as Markdown."""
    names = [name for name in results.file.parameters if not is_seed(name)]
    headings = [*names, f"mean {results.file.metric}", *SETTING_HEADINGS]
    table = []
    for row in setting_rows(results):
        cells = list(row["parameters"].values())
        cells += [row[key] for key in SETTING_KEYS]
        table.append(cells)
    text = f"{markdown(headings, table)}\n\n{caveat(results)}"
    # The caveat may be empty.
    return text.strip()


def gaps_table(results: SweepResults) -> str:
    """Trials without a score, as Markdown."""
    table = []
    for trial in results.unfinished:
        values = trial.parameters.values()
        table.append([*values, trial.state, trial.remark, trial.run])
    if not table:
        return "None."
    return markdown([*results.file.parameters, "state", "", "run"], table)


def differences_table(results: SweepResults) -> str:
    """Configuration keys in which runs differ, as Markdown."""
    table = []
    for name, values in differences(results.trials, results.file).items():
        for value, runs in values.items():
            table.append([name, value, len(runs)])
    if not table:
        return "None."
    return markdown(["key", "value", "runs"], table)


def commit_lines(results: SweepResults) -> list[str]:
    """Git commits with their numbers of runs."""
    lines = []
    for commit, runs in commits(results).items():
        lines.append(f"git commit {commit}: {len(runs)} runs")
    return lines


def commands(results: SweepResults) -> str:
    """Commands of all trials as a Markdown code block."""
    lines = [trial.command for trial in results.trials]
    return "\n".join(["```", *lines, "```"])


def markdown(headings: Sequence[Any], table: Sequence[Sequence[Any]]) -> str:
    """A Markdown table.

    Args:
        headings: of its columns.
        table: rows of cells.
    """
    rule = ["---"] * len(headings)
    lines = []
    for cells in (headings, rule, *table):
        # A vertical bar would end the cell.
        escaped = [str(cell).replace("|", "\\|") for cell in cells]
        row = " | ".join(escaped)
        lines.append(f"| {row} |")
    return "\n".join(lines)
