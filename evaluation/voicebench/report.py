"""Scores of VoiceBench as a table, and flat for programs."""

import dataclasses
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from evaluation.voicebench.judge import DATED
from evaluation.voicebench.score import Scores, overall
from evaluation.voicebench.subsets import LEADERBOARD, SUBSETS

SHOWN = 3
"""Troubles of each kind that are named on the screen; the file `troubles.jsonl` has all."""


@dataclasses.dataclass(frozen=True)
class Subtotal:
    """What came of one subset."""

    name: str
    scores: Scores
    responses: int
    empty: int
    troubles: Mapping[str, Sequence[str]]
    """By kind, in words."""
    judge: str = ""
    """Who judged, where somebody has to."""
    note: str = ""
    """Why a column is empty."""

    @property
    def own_name(self) -> str:
        """The column of a judge who is not the official one."""
        return "" if not self.judge or DATED.fullmatch(self.judge) else f"by/{self.judge}"

    @property
    def whole(self) -> bool:
        return self.responses == SUBSETS[self.name].size


def flat(found: Sequence[Subtotal], embedded: bool) -> dict[str, float | None]:
    """By `<subset>/<score>`; None: it cannot be had. `overall` needs all nine subsets, whole, and one judge."""
    values: dict[str, float | None] = {"data/embedded": float(embedded)}
    columns = sorted({"official"} | {subtotal.own_name for subtotal in found if subtotal.own_name})
    for subtotal in found:
        name, scores = subtotal.name, subtotal.scores
        official, strict = (None, None) if subtotal.own_name else (scores.official, scores.strict)
        values |= {f"{name}/official": official, f"{name}/strict": strict}
        if subtotal.own_name:
            values[f"{name}/{subtotal.own_name}"] = scores.official
        values[f"{name}/parse_failure_rate"] = scores.parse_failure_rate
        values[f"{name}/empty_rate"] = (
            subtotal.empty / subtotal.responses if subtotal.responses else None
        )
        values |= {f"{name}/{part}": value for part, value in scores.parts.items()}
        values[f"count/{name}/responses"] = subtotal.responses
        values |= {f"count/{name}/{kind}": len(named) for kind, named in subtotal.troubles.items()}
    for column in columns:
        whole = {s.name: s.scores.official for s in found if s.whole and s.own_name in ("", column)}
        values["overall" if column == "official" else f"overall/{column}"] = (
            None if embedded else overall(whole)
        )
    return values


def show(found: Sequence[Subtotal], values: Mapping[str, float | None], title: str) -> None:
    """One screen."""
    out = Console(width=max(120, Console().width))
    out.rule(title, align="left")
    if values["data/embedded"]:
        out.print(
            "These are the project's own few items, spoken by espeak-ng: the numbers are not VoiceBench's."
        )
    judges = sorted({subtotal.own_name for subtotal in found if subtotal.own_name})
    table = Table(
        "subset", "responses", "official", "strict", *judges, "not parsed", "empty", "", box=None
    )
    for column in table.columns[1:-1]:
        column.justify = "right"
    for subtotal in found:
        name = subtotal.name
        columns = [
            _score(values.get(f"{name}/{column}")) for column in ("official", "strict", *judges)
        ]
        rates = [_share(values[f"{name}/{rate}"]) for rate in ("parse_failure_rate", "empty_rate")]
        of = f"{subtotal.responses:,}" + (
            "" if values["data/embedded"] else f" of {SUBSETS[name].size:,}"
        )
        table.add_row(name, of, *columns, *rates, subtotal.note)
    totals = [
        _score(values.get(name))
        for name in ("overall", "", *(f"overall/{judge}" for judge in judges))
    ]
    table.add_row(
        "overall",
        "",
        *totals,
        "",
        "",
        "" if values["overall"] is not None else _why_no_overall(values),
    )
    out.print(table)
    for subtotal in found:
        for kind, named in subtotal.troubles.items():
            if named:
                more = f" and {len(named) - SHOWN:,} more" if len(named) > SHOWN else ""
                out.print(
                    f"{subtotal.name}: {len(named):,} {kind}: {'; '.join(named[:SHOWN])}{more}",
                    markup=False,
                )


def _why_no_overall(values: Mapping[str, float | None]) -> str:
    if values["data/embedded"]:
        return "not VoiceBench's items"
    lacking = [name for name in LEADERBOARD if values.get(f"{name}/official") is None]
    return f"without {', '.join(lacking)}" if lacking else "not all items are there"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
