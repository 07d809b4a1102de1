"""Report on a corpus of conversations as one page: for the terminal, and as HTML."""

import dataclasses
import html
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from datamodules.conversations.statistics import FIGURES, Figure, Statistics
from datamodules.sources.corpus_manifest import Survey
from datamodules.sources.report import STYLE, unusable_section
from reporting.corpus_report import draw

COLUMNS = ("", "this corpus", "published")
BAR_EDGES_S = np.arange(-2.0, 3.01, 0.2)
"""Borders of the bars of the histogram of floor transfer offsets."""


@dataclasses.dataclass(frozen=True)
class ConversationReport:
    """Facts about a converted corpus."""

    name: str
    path: str
    survey: Survey
    statistics: Statistics

    def numbers(self) -> dict[str, float]:
        """Flat numbers for report.json."""
        numbers: dict[str, float] = {}
        for split, facts in self.survey.splits.items():
            numbers[f"{split}/conversations"] = facts.utterances
            numbers[f"{split}/hours"] = round(facts.hours, 4)
            numbers[f"{split}/speakers"] = facts.speakers
        numbers["unusable"] = len(self.survey.unusable)
        numbers["left_out"] = len(self.survey.skipped)
        for key, value in self.statistics.values.items():
            numbers[key] = round(value, 4)
        return numbers

    def rows(self) -> list[tuple[str, str, str]]:
        """Rows of the table with the columns COLUMNS."""
        rows = []
        for figure in FIGURES:
            value = self.statistics.values.get(figure.key)
            if value is not None:
                rows.append((_label(figure), _shown(value, figure), figure.published))
        return rows

    def findings(self) -> list[str]:
        """Sizes, what was left out, and notes, one line each."""
        lines = []
        for split, facts in self.survey.splits.items():
            lines.append(
                f"{split}: {facts.utterances:,} conversations and listeners, {facts.hours:.2f} h, "
                f"{facts.speakers:,} speakers"
            )
        lines += [f"left out: {phrase}" for phrase in self.survey.left_out()]
        return lines + self.survey.notes


def _label(figure: Figure) -> str:
    return f"{figure.label} ({figure.unit})" if figure.unit else figure.label


def _shown(value: float, figure: Figure) -> str:
    return f"{100 * value:.1f}" if figure.unit == "%" else f"{value:.2f}"


def print_report(report: ConversationReport) -> None:
    """Print a report to the terminal."""
    console = Console()
    console.rule(f"{report.name}: {report.path}", align="left")
    table = Table(box=None)
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if number == 1 else "left")
    for row in report.rows():
        table.add_row(*row)
    console.print(table)
    # Brackets in names of files would be taken for markup.
    for line in report.findings():
        console.print(line, markup=False, highlight=False)


def write_html(report: ConversationReport, path: Path) -> None:
    """Write a report as one HTML file."""
    name = html.escape(report.name)
    findings = "".join(f"<li>{html.escape(line)}</li>" for line in report.findings())
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>{name}</title><style>{STYLE}</style><h1>{name}</h1>"
        f"<p>{html.escape(report.path)}</p><table>{_table_rows(report)}</table>"
        f"{_histogram(report)}<h2>Findings</h2><ul>{findings}</ul>"
        f"{unusable_section(report.survey.unusable)}</html>\n",
        encoding="utf-8",
    )


def _table_rows(report: ConversationReport) -> str:
    rows = "".join(f"<th>{column}</th>" for column in COLUMNS)
    for row in report.rows():
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        rows += f"</tr><tr>{cells}"
    return f"<tr>{rows}</tr>"


def _histogram(report: ConversationReport) -> str:
    """Section with a histogram of the offsets; empty: the floor is never transferred."""
    counts, edges_s = np.histogram(report.statistics.offsets_s, BAR_EDGES_S)
    if not counts.any():
        return ""
    picture = draw(counts.tolist(), edges_s.tolist(), "floor transfers")
    return f"<h2>Replies after the end of a turn</h2><p>Negative: overlap.</p>{picture}"
