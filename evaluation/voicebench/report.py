"""Scores of VoiceBench as a table on the screen, and as flat values."""

import dataclasses
from collections.abc import Mapping, Sequence

from rich.table import Table

from evaluation.console import wide_console
from evaluation.voicebench.judge import OFFICIAL_NAMES
from evaluation.voicebench.score import SubsetScores, overall
from evaluation.voicebench.subsets import LEADERBOARD, SUBSETS

NUM_SHOWN = 3
"""Problems of each kind on the screen; the file `troubles.jsonl` has all."""
OFFICIAL = "official"

Values = Mapping[str, float | None]
"""Score key -> value; None for a score that cannot be computed."""


@dataclasses.dataclass(frozen=True)
class SubsetResult:
    """Scores of one subset with the numbers of responses and the problems."""

    name: str
    scores: SubsetScores
    num_responses: int
    num_empty: int
    problems: Mapping[str, Sequence[str]]
    """Kind of problem -> descriptions."""
    judge: str = ""
    """Model of the judge; empty if no judge was asked."""
    note: str = ""
    """Why a column is empty."""

    @property
    def judge_column(self) -> str:
        """Column of a judge other than the official one; empty if the scores are official."""
        if not self.judge or OFFICIAL_NAMES.fullmatch(self.judge):
            return ""
        return f"by/{self.judge}"

    @property
    def is_complete(self) -> bool:
        """Whether all items of the subset have a response."""
        return self.num_responses == SUBSETS[self.name].size


def flat_values(results: Sequence[SubsetResult], embedded: bool) -> dict[str, float | None]:
    """Values by `<subset>/<score>`, and the means of the leaderboard.

    Args:
        results: of the scored subsets.
        embedded: whether the items are those of this project, for which there is no `overall`.

    Returns:
        Values; None for a score that cannot be computed. `overall` needs all nine subsets,
        complete, and a single judge.
    """
    values: dict[str, float | None] = {"data/embedded": float(embedded)}
    for result in results:
        values |= _subset_values(result)
    for column in sorted({OFFICIAL, *_judge_columns(results)}):
        key = f"overall/{column}"
        if column == OFFICIAL:
            key = "overall"
        # Items of this project are not those of the leaderboard.
        values[key] = None
        if not embedded:
            values[key] = overall(_complete_scores(results, column))
    return values


def _complete_scores(results: Sequence[SubsetResult], column: str) -> dict[str, float | None]:
    """Scores of the complete subsets that count in the mean of a column, by subset."""
    scores: dict[str, float | None] = {}
    for result in results:
        # Scores without a judge belong to the mean of every judge.
        if result.is_complete and result.judge_column in ("", column):
            scores[result.name] = result.scores.official
    return scores


def _subset_values(result: SubsetResult) -> dict[str, float | None]:
    """Values of one subset."""
    name = result.name
    scores = result.scores
    values: dict[str, float | None] = {}
    if result.judge_column:
        # Another judge rates differently, so its scores do not go under the official name.
        values[f"{name}/official"] = None
        values[f"{name}/strict"] = None
        values[f"{name}/{result.judge_column}"] = scores.official
    else:
        values[f"{name}/official"] = scores.official
        values[f"{name}/strict"] = scores.strict
    values[f"{name}/parse_failure_rate"] = scores.parse_failure_rate
    empty_rate = None
    if result.num_responses:
        empty_rate = result.num_empty / result.num_responses
    values[f"{name}/empty_rate"] = empty_rate
    for part, value in scores.parts.items():
        values[f"{name}/{part}"] = value
    values[f"count/{name}/responses"] = result.num_responses
    for kind, descriptions in result.problems.items():
        values[f"count/{name}/{kind}"] = len(descriptions)
    return values


def _judge_columns(results: Sequence[SubsetResult]) -> list[str]:
    """Columns of judges other than the official one."""
    return sorted({result.judge_column for result in results if result.judge_column})


def print_screen(results: Sequence[SubsetResult], values: Values, title: str) -> None:
    """Print the table of subsets and the first problems of each kind."""
    console = wide_console()
    console.rule(title, align="left")
    if values["data/embedded"]:
        console.print(
            "These are the project's own few items, spoken by espeak-ng: the numbers are not "
            "VoiceBench's."
        )
    console.print(_table(results, values))
    for result in results:
        for kind, descriptions in result.problems.items():
            if descriptions:
                line = f"{result.name}: {_problem_summary(kind, descriptions)}"
                # Descriptions quote prompts, whose brackets rich would take for markup.
                console.print(line, markup=False)


def _problem_summary(kind: str, descriptions: Sequence[str]) -> str:
    """The number of problems of a kind, and the first of them."""
    count = len(descriptions)
    shown = "; ".join(descriptions[:NUM_SHOWN])
    more = ""
    if count > NUM_SHOWN:
        more = f" and {count - NUM_SHOWN:,} more"
    return f"{count:,} {kind}: {shown}{more}"


def _table(results: Sequence[SubsetResult], values: Values) -> Table:
    """A line for each subset, and the mean of the leaderboard."""
    judges = _judge_columns(results)
    headings = ["subset", "responses", "official", "strict", *judges, "not parsed", "empty", ""]
    table = Table(*headings, box=None)
    for column in table.columns[1:-1]:
        column.justify = "right"
    for result in results:
        table.add_row(*_subset_cells(result, values, judges))
    means = [_two_decimals(values.get(f"overall/{judge}")) for judge in judges]
    reason = _why_no_overall(values)
    # The leaderboard has no strict mean.
    table.add_row("overall", "", _two_decimals(values["overall"]), "", *means, "", "", reason)
    return table


def _subset_cells(result: SubsetResult, values: Values, judges: Sequence[str]) -> list[str]:
    """The cells of a subset, in the order of the headings."""
    name = result.name
    count = f"{result.num_responses:,}"
    if not values["data/embedded"]:
        size = SUBSETS[name].size
        count += f" of {size:,}"
    cells = [name, count]
    for column in (OFFICIAL, "strict", *judges):
        cells.append(_two_decimals(values.get(f"{name}/{column}")))
    cells.append(_percent(values[f"{name}/parse_failure_rate"]))
    cells.append(_percent(values[f"{name}/empty_rate"]))
    cells.append(result.note)
    return cells


def _why_no_overall(values: Values) -> str:
    """Reason why the mean of the leaderboard cannot be computed; empty if it can."""
    if values["overall"] is not None:
        return ""
    if values["data/embedded"]:
        return "not VoiceBench's items"
    lacking = [name for name in LEADERBOARD if values.get(f"{name}/official") is None]
    if lacking:
        return f"without {', '.join(lacking)}"
    return "not all items are there"


def _two_decimals(value: float | None) -> str:
    """A number with two decimals; empty for None."""
    return "" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    """A share in percent; empty for None."""
    return "" if value is None else f"{value:.1%}"
