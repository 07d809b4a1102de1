"""The report as a shared one on Weights & Biases: what we found as text, and panels over the runs that lie there."""

from typing import Any

import wandb

try:
    import wandb_workspaces.reports.v2 as wr
except ImportError:
    raise ImportError(
        "a W&B report needs wandb-workspaces: pip install -e '.[reports]', or make report-wandb"
    ) from None

from sweeps.report.answer import answer
from sweeps.report.gather import Gathered, differences
from sweeps.report.page import caveat, commits, setting_rows, spread_over
from sweeps.report.sweep_file import is_seed

TITLE_LENGTH = 128
"""W&B takes no more."""


def save(gathered: Gathered) -> str:
    """Where the saved report is to be seen.

    Raises:
        ValueError: nobody is logged in.
    """
    name = gathered.file.name
    if not wandb.login(prompt=False):
        raise ValueError(
            f"no W&B login: run `wandb login` or set WANDB_API_KEY; `make report SWEEP={name}` needs no account"
        )
    entity = wandb.Api().default_entity
    assert entity is not None
    return build(gathered, entity).save().url


def build(gathered: Gathered, entity: str) -> wr.Report:
    """The report, not yet saved. Raises ValueError: no run was sent to W&B."""
    file, sentences = gathered.file, answer(gathered)
    projects = {
        point.config["wandb.project"]
        for point in gathered.points
        if "wandb.project" in point.config
    }
    if not projects:
        raise ValueError(
            f"SWEEP={file.name}: no run has left its config.yaml, so there is nothing to show on W&B"
        )
    project = sorted(projects)[0]
    blocks: list[Any] = [
        wr.H1(file.question), wr.P(sentences[0]), wr.UnorderedList([*sentences[1:]]),
        wr.H2(f"{file.metric} against {file.x}"), grid(gathered, entity, project),
        wr.H2("Settings, best first"), wr.MarkdownBlock(settings_table(gathered)),
        wr.H2("Failed and missing points"), wr.MarkdownBlock(gaps_table(gathered)),
        wr.H2("Other differences between the runs' configurations"), wr.MarkdownBlock(differences_table(gathered)),
        wr.H2("Cost and code"), wr.UnorderedList([file.cost, *commit_lines(gathered)]),
        wr.H2("Commands"), wr.MarkdownBlock(commands(gathered)),
    ]  # fmt: skip
    title = f"{file.name}: {file.question}"
    return wr.Report(
        project=project,
        entity=entity,
        title=title[:TITLE_LENGTH],
        description=sentences[0],
        blocks=blocks,
    )


def grid(gathered: Gathered, entity: str, project: str) -> wr.PanelGrid:
    """Means with their whole range, parallel coordinates, importance and what the configurations differ in."""
    file, metric = gathered.file, wr.SummaryMetric(gathered.file.metric)
    columns: list[Any] = [*map(wr.Config, file.swept), metric]
    over = (
        f", from the lowest to the highest over {spread_over(gathered)}"
        if spread_over(gathered)
        else ""
    )
    panels: list[Any] = [
        wr.BarPlot(
            title=f"mean {file.metric}{over}", metrics=[metric], groupby=wr.Config(file.x), groupby_aggfunc="mean",
            groupby_rangefunc="minmax", orientation="v", layout=wr.Layout(0, 0, 12, 8),
        ),
        wr.ScatterPlot(x=wr.Config(file.x), y=metric, layout=wr.Layout(12, 0, 12, 8)),
        wr.ParallelCoordinatesPlot(
            columns=[wr.ParallelCoordinatesPlotColumn(column) for column in columns], layout=wr.Layout(0, 8, 24, 9)
        ),
        wr.ParameterImportancePlot(with_respect_to=file.metric, layout=wr.Layout(0, 17, 12, 9)),
        wr.RunComparer(diff_only="split", layout=wr.Layout(12, 17, 12, 9)),
    ]  # fmt: skip
    return wr.PanelGrid(runsets=runsets(gathered, entity, project), panels=panels)


def runsets(gathered: Gathered, entity: str, project: str) -> list[wr.Runset]:
    """The finished runs, a set for each line of the figure."""
    groups: dict[str, list[str]] = {}
    for point in gathered.finished:
        line = gathered.file.line
        groups.setdefault(
            f"{line}={point.parameters[line]}" if line else gathered.file.name, []
        ).append(point.run)
    return [
        wr.Runset(entity=entity, project=project, name=name, filters=f"Metric('Name') in {runs}")
        for name, runs in groups.items()
    ]


def settings_table(gathered: Gathered) -> str:
    """Markdown."""
    names = [name for name in gathered.file.parameters if not is_seed(name)]
    head = [
        *names,
        f"mean {gathered.file.metric}",
        "deviation",
        "lowest",
        "highest",
        "seeds",
        "against the best",
    ]
    rows = [
        [
            *row["parameters"].values(),
            *(row[name] for name in ("mean", "deviation", "low", "high", "seeds", "note")),
        ]
        for row in setting_rows(gathered)
    ]
    return f"{markdown(head, rows)}\n\n{caveat(gathered)}".strip()


def gaps_table(gathered: Gathered) -> str:
    """Markdown."""
    rows = [
        [*point.parameters.values(), point.state, point.remark, point.run]
        for point in gathered.unfinished
    ]
    return markdown([*gathered.file.parameters, "state", "", "run"], rows) if rows else "None."


def differences_table(gathered: Gathered) -> str:
    """Markdown."""
    found = differences(gathered.points, gathered.file)
    rows = [
        [name, value, len(runs)] for name, values in found.items() for value, runs in values.items()
    ]
    return markdown(["key", "value", "runs"], rows) if rows else "None."


def commit_lines(gathered: Gathered) -> list[str]:
    return [f"git commit {commit}: {len(runs)} runs" for commit, runs in commits(gathered).items()]


def commands(gathered: Gathered) -> str:
    """Markdown: a command a line."""
    return "\n".join(["```", *(point.command for point in gathered.points), "```"])


def markdown(head: list[Any], rows: list[list[Any]]) -> str:
    """A table; what would end a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    )
