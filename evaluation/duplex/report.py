"""Scores of a duplex session as one screen, and as files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from duplexmamba.text.tokenizer import TURN_STATE_MARKERS
from evaluation.duplex.dialogues import Heard, Point, Score, confusion, curve, findings, scores

T = TypeVar("T")
LEFT = ("state/", "answer/", "slice/", "memory/")
"""Scores of the left column; those of turn-taking are on the right."""

MARKED = (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9)
"""Thresholds named in the picture."""


def watched(items: Iterable[T], doing: str, total: int | None = None) -> Iterable[T]:
    """The items, `total` where they cannot be counted, behind a progress bar; where output is no terminal, behind one
    line."""
    count = total if total is not None or not isinstance(items, Sequence) else len(items)
    out = Console(stderr=True)
    if not out.is_terminal:
        out.print(f"{doing}: {count}")
    return track(items, doing, total=count, console=out, disable=not out.is_terminal)


def write_lines(file: Path, lines: Iterable[Any]) -> None:
    """JSON, one value a line."""
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def report(heard: Sequence[Heard], folder: Path, title: str) -> dict[str, float]:
    """Print the scores of dialogues and draw them.

    Args:
        folder: gets duplex.jsonl (a line for each dialogue), duplex_curve.json and duplex.png.

    Returns:
        The scores, flat.
    """
    points, matrix, found = curve(heard), confusion(heard), scores(heard)
    write_lines(folder / "duplex.jsonl", map(_line, heard))
    (folder / "duplex_curve.json").write_text(
        json.dumps([point._asdict() for point in points], indent=1) + "\n"
    )
    draw(matrix, points, title).savefig(folder / "duplex.png", dpi=120)
    show(found, matrix, title)
    counts = {f"state/confusion/{label}/{named}": count for (label, named), count in matrix.items()}
    return {
        **{name: score.value for name, score in found.items()},
        **counts,
        "count/dialogues": len(heard),
    }


def _line(heard: Heard) -> dict[str, Any]:
    """One dialogue: of each finding its cases in the order of the turns they are about."""
    turns = [
        turn._asdict() | {"window": [turn.window.start, turn.window.stop]} for turn in heard.turns
    ]
    said = [{"decided_s": heard.end_s(reply.begun), **reply._asdict()} for reply in heard.replies]
    states = [f"{label}/{named}" for label, named in zip(heard.labels, heard.named, strict=True)]
    return {
        "id": heard.id,
        "findings": findings(heard),
        "replies": said,
        "turns": turns,
        "label/named": states,
    }


def report_bench(found: Mapping[str, Score], title: str) -> dict[str, float]:
    """Print the scores of a benchmark and return them, flat."""
    out = Console(width=max(120, Console().width))
    out.rule(title, align="left")
    out.print(score_table(found))
    return {name: score.value for name, score in found.items()}


def show(found: Mapping[str, Score], matrix: Mapping[tuple[str, str], int], title: str) -> None:
    """One screen."""
    out = Console(width=max(120, Console().width))
    out.rule(title, align="left")
    halves = Table.grid(padding=(0, 4))
    left = score_table({name: score for name, score in found.items() if name.startswith(LEFT)})
    right = score_table({name: score for name, score in found.items() if not name.startswith(LEFT)})
    lower = Table.grid()
    lower.add_row(right)
    lower.add_row("")
    lower.add_row(matrix_table(matrix))
    halves.add_row(left, lower)
    out.print(halves)


def score_table(found: Mapping[str, Score]) -> Table:
    """Name, value and number of cases; what has no unit in its name is a share, and in percent."""
    table = Table("", "", "of", box=None)
    table.columns[1].justify = table.columns[2].justify = "right"
    for name, (value, cases) in found.items():
        unit = name.rsplit("_", 1)[-1]
        plain = unit in ("s", "ms", "factor", "hour", "bytes")
        shown = (
            f"{value:,.0f}"
            if unit in ("bytes", "parameters")
            else f"{value:.3g}"
            if plain
            else f"{value:.1%}"
        )
        table.add_row(name, shown, f"{cases:,}")
    return table


def matrix_table(matrix: Mapping[tuple[str, str], int]) -> Table:
    """Slices: labels down, what was named across."""
    states = columns(matrix)
    table = Table("label, named", *states, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for label in TURN_STATE_MARKERS:
        table.add_row(label, *(f"{matrix[label, named]:,}" for named in states))
    return table


def columns(matrix: Mapping[tuple[str, str], int]) -> list[str]:
    """What can be named."""
    return list(dict.fromkeys(named for _, named in matrix))


def draw(matrix: Mapping[tuple[str, str], int], points: Sequence[Point], title: str) -> Figure:
    """The confusion matrix, in shares of each label, and the threshold curve."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    left, right = figure.subplots(1, 2)
    states = columns(matrix)
    names: list[str] = list(TURN_STATE_MARKERS)
    shares = [
        [matrix[a, b] / max(1, sum(matrix[a, c] for c in states)) for b in states] for a in names
    ]
    left.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    left.set(xticks=range(len(states)), xticklabels=states, xlabel="named")
    left.set(yticks=range(len(names)), yticklabels=names, ylabel="label")
    for (label, named), count in matrix.items():
        y, x = names.index(label), states.index(named)
        left.text(
            x,
            y,
            f"{count:,}",
            ha="center",
            va="center",
            color="white" if shares[y][x] > 0.5 else "black",
        )
    right.plot(
        [p.false_positive_rate for p in points],
        [p.recall for p in points],
        marker=".",
        markersize=4,
    )
    for point in points:
        if point.threshold in MARKED:
            right.annotate(
                f"{point.threshold:g}", (point.false_positive_rate, point.recall), fontsize=8
            )
    right.set_xscale("symlog", linthresh=0.001)
    right.set(
        xlabel="false positives among other slices",
        ylabel="recall of response slices",
        ylim=(-0.02, 1.02),
    )
    right.set_title("threshold on the probability of response", fontsize=9)
    right.grid(color="#dddddd", linewidth=0.5)
    return figure
