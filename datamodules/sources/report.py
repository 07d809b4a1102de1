"""Report on a corpus as one page: for the terminal, and as HTML without external files."""

import dataclasses
import html
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from datamodules.sources.bandwidth import narrow_band_notes
from datamodules.sources.corpus_manifest import Survey
from datamodules.sources.manifest_entry import UNUSABLE
from reporting.corpus_report import draw

NUM_BARS = 24
"""Bars in the histogram of lengths."""
MAX_BAR_CHARACTERS = 50
"""Length of the longest bar on the terminal."""
NUM_NAMED = 20
"""Unusable files that the page names, and characters that it lists; the rest is counted."""
PERCENTILES = [5, 50, 95]
"""Percentiles of the lengths in the table."""
COLUMNS = ["split", "utterances", "hours", "speakers", "5 % (s)", "median (s)", "95 % (s)"]
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}
td,th{padding:.2rem .9rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left;padding-left:0}
ul{padding-left:1.2rem;overflow-wrap:anywhere}.bad{color:#b00020}.good{color:#1b7f3b}
svg{width:100%;height:auto}@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}
td,th{border-color:#444}.bad{color:#ff8a80}.good{color:#81c995}}"""


@dataclasses.dataclass(frozen=True)
class Report:
    """Facts about a corpus whose every sound has been decoded."""

    name: str
    path: str
    survey: Survey
    lengths_s: dict[str, list[float]]
    """Split -> seconds of each utterance."""
    rates_hz: dict[int, int]
    """Sample rate -> number of files."""
    characters: dict[str, int]
    """Character other than letters, apostrophe and space -> how often it occurs."""
    unknown: list[str]
    """Characters that the tokenizer does not reproduce."""
    tokenizer: str
    """Value of `tokenizer.source`."""
    model_rate_hz: int
    """Sample rate of the model."""

    def numbers(self) -> dict[str, float]:
        """Flat scores, such as train/hours, for report.json."""
        scores: dict[str, float] = {}
        for split, facts in self.survey.splits.items():
            scores[f"{split}/utterances"] = facts.utterances
            scores[f"{split}/hours"] = round(facts.hours, 4)
            scores[f"{split}/speakers"] = facts.speakers
        scores["unusable"] = len(self.survey.unusable)
        scores["left_out"] = len(self.survey.skipped)
        scores["unknown_characters"] = len(self.unknown)
        return scores

    def splits(self) -> list[list[str]]:
        """Rows of the table with the columns COLUMNS, one for each split that is not empty."""
        rows = []
        for name, facts in self.survey.splits.items():
            # An empty split has no percentiles.
            if not facts.utterances:
                continue
            percentiles_s = np.percentile(self.lengths_s[name], PERCENTILES)
            rows.append(
                [
                    name,
                    f"{facts.utterances:,}",
                    f"{facts.hours:.2f}",
                    f"{facts.speakers:,}",
                    *[f"{seconds:.1f}" for seconds in percentiles_s],
                ]
            )
        return rows

    def findings(self) -> list[str]:
        """Facts that are not in the table, one line each."""
        lines = [f"left out: {phrase}" for phrase in self.survey.left_out()]
        lines += self.survey.notes
        rates = [f"{count:,} of {rate:,} Hz" for rate, count in sorted(self.rates_hz.items())]
        lines.append(f"files by rate: {', '.join(rates)}; all are resampled as they are read")
        lines += narrow_band_notes(self.rates_hz, self.model_rate_hz)
        most_frequent = list(self.characters.items())[:NUM_NAMED]
        others = [f"{character} ({count:,})" for character, count in most_frequent]
        lines.append(f"characters other than a to z: {', '.join(others) or 'none'}")
        knowledge = "knows every character"
        if self.unknown:
            knowledge = f"does not know {' '.join(self.unknown)}"
        lines.append(f"the tokenizer ({self.tokenizer}) {knowledge}")
        return lines


def print_report(report: Report) -> None:
    """Print a report to the terminal."""
    console = Console()
    console.rule(f"{report.name}: {report.path}", align="left")
    table = Table(box=None)
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if number else "left")
    for row in report.splits():
        table.add_row(*row)
    console.print(table)
    # Brackets in names of files would be taken for markup.
    for line in _histogram_lines(report) + report.findings():
        console.print(line, markup=False, highlight=False)


def _histogram_lines(report: Report) -> list[str]:
    counts, edges_s = histogram(report)
    lines = []
    for count, low_s, high_s in zip(counts, edges_s[:-1], edges_s[1:], strict=True):
        bar = "█" * round(MAX_BAR_CHARACTERS * count / max(counts))
        if count and not bar:
            # A few utterances among thousands are still visible.
            bar = "▏"
        lines.append(f"{low_s:6.1f} to {high_s:4.1f} s {bar} {count:,}")
    return lines


def histogram(report: Report) -> tuple[list[int], list[float]]:
    """Histogram of the lengths of all splits.

    Returns:
        Utterances per bar (NUM_BARS,), and the borders of the bars in seconds (NUM_BARS + 1,).
    """
    lengths_s: list[float] = []
    for split_lengths_s in report.lengths_s.values():
        lengths_s += split_lengths_s
    counts, edges_s = np.histogram(lengths_s, NUM_BARS, (0, max(lengths_s)))
    return counts.tolist(), edges_s.tolist()


def write_html(report: Report, path: Path) -> None:
    """Write a report as one HTML file."""
    name = html.escape(report.name)
    location = html.escape(report.path)
    num_unusable = len(report.survey.unusable)
    css_class = "good"
    verdict = "every sound can be read"
    if num_unusable:
        css_class = "bad"
        verdict = f"{num_unusable:,} unusable"
    table = _table_row("th", COLUMNS)
    for row in report.splits():
        table += _table_row("td", row)
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>{name}</title><style>{STYLE}</style>"
        f"<h1>{name}: <span class={css_class}>{verdict}</span></h1>"
        f"<p>{location}</p><table>{table}</table>"
        f"<h2>Lengths</h2>{draw(*histogram(report))}"
        f"<h2>Findings</h2>{_list(report.findings())}"
        f"{unusable_section(report.survey.unusable)}</html>\n",
        encoding="utf-8",
    )


def _table_row(tag: str, cells: Iterable[str]) -> str:
    # Names of splits and numbers need no escaping.
    content = "".join(f"<{tag}>{cell}</{tag}>" for cell in cells)
    return f"<tr>{content}</tr>"


def _list(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>"


def unusable_section(sentences: list[str]) -> str:
    """Section that names unusable files; empty: there are none."""
    if not sentences:
        return ""
    num_more = len(sentences) - NUM_NAMED
    more = f"<p>and {num_more:,} more</p>" if num_more > 0 else ""
    return f"<h2>{UNUSABLE.capitalize()}</h2>{_list(sentences[:NUM_NAMED])}{more}"
