"""Report on a corpus, on one page: for the terminal, and as HTML that needs nothing beside
it."""

import dataclasses
import html
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from datamodules.sources.corpus_manifest import Survey
from datamodules.sources.manifest_entry import UNUSABLE
from reporting.corpus_report import draw

BARS = 24
"""Bars in the histogram of lengths."""
NAMED = 20
"""Unusable files that the page names; the rest is counted."""
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}
td,th{padding:.2rem .9rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left;padding-left:0}
ul{padding-left:1.2rem;overflow-wrap:anywhere}.bad{color:#b00020}.good{color:#1b7f3b}
svg{width:100%;height:auto}@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}
td,th{border-color:#444}.bad{color:#ff8a80}.good{color:#81c995}}"""


@dataclasses.dataclass(frozen=True)
class Report:
    """A corpus that has been listened to."""

    name: str
    path: str
    survey: Survey
    lengths_s: dict[str, list[float]]
    """Split -> seconds of each utterance."""
    rates_hz: dict[int, int]
    """Sample rate -> files."""
    characters: dict[str, int]
    """How often characters other than letters, apostrophe and space occur."""
    unknown: list[str]
    """Characters that the tokenizer does not give back."""
    tokenizer: str

    def numbers(self) -> dict[str, float]:
        """Flat, with units in the names."""
        found: dict[str, float] = {}
        for split, facts in self.survey.splits.items():
            found |= {
                f"{split}/utterances": facts.utterances,
                f"{split}/hours": round(facts.hours, 4),
            }
            found |= {f"{split}/speakers": facts.speakers}
        lost = {"unusable": len(self.survey.unusable), "left_out": len(self.survey.skipped)}
        return found | lost | {"unknown_characters": len(self.unknown)}

    def splits(self) -> list[list[str]]:
        """A row of the table for each split that holds anything."""
        rows = []
        for name, facts in self.survey.splits.items():
            if facts.utterances:
                low, middle, high = np.percentile(self.lengths_s[name], [5, 50, 95])
                counts = [f"{facts.utterances:,}", f"{facts.hours:.2f}", f"{facts.speakers:,}"]
                rows.append([name, *counts, f"{low:.1f}", f"{middle:.1f}", f"{high:.1f}"])
        return rows

    def findings(self) -> list[str]:
        """Everything else, a sentence each."""
        rates = ", ".join(
            f"{count:,} of {rate:,} Hz" for rate, count in sorted(self.rates_hz.items())
        )
        others = (
            ", ".join(f"{c} ({count:,})" for c, count in list(self.characters.items())[:NAMED])
            or "none"
        )
        unknown = (
            f"does not know {' '.join(self.unknown)}" if self.unknown else "knows every character"
        )
        return [
            *[f"left out: {phrase}" for phrase in self.survey.left_out()],
            *self.survey.notes,
            f"files by rate: {rates}; all are resampled as they are read",
            f"characters other than a to z: {others}",
            f"the tokenizer ({self.tokenizer}) {unknown}",
        ]


COLUMNS = ["split", "utterances", "hours", "speakers", "5 % (s)", "median (s)", "95 % (s)"]


def print_report(report: Report) -> None:
    """The page on the screen."""
    out = Console()
    out.rule(f"{report.name}: {report.path}", align="left")
    table = Table(box=None)
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if number else "left")
    for row in report.splits():
        table.add_row(*row)
    out.print(table)
    counts, edges = histogram(report)
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        bar = "█" * round(50 * count / max(counts)) or ("▏" if count else "")
        out.print(f"{low:6.1f} to {high:4.1f} s {bar} {count:,}", markup=False, highlight=False)
    for finding in report.findings():
        out.print(finding, markup=False, highlight=False)


def histogram(report: Report) -> tuple[list[int], list[float]]:
    """Utterances of all splits by length, and the borders in seconds."""
    lengths = [s for held in report.lengths_s.values() for s in held]
    counts, edges = np.histogram(lengths, BARS, (0, max(lengths)))
    return counts.tolist(), edges.tolist()


def write_html(report: Report, path: Path) -> None:
    """The page as one file."""
    rows = "".join(
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in report.splits()
    )
    heads = "".join(f"<th>{column}</th>" for column in COLUMNS)
    findings = "".join(f"<li>{html.escape(finding)}</li>" for finding in report.findings())
    unusable = report.survey.unusable
    kind, verdict = (
        ("bad", f"{len(unusable):,} unusable") if unusable else ("good", "every sound can be read")
    )
    named = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in unusable[:NAMED])
    more = f"<p>and {len(unusable) - NAMED:,} more</p>" if len(unusable) > NAMED else ""
    broken = f"<h2>{UNUSABLE.capitalize()}</h2><ul>{named}</ul>{more}" if unusable else ""
    name, where = html.escape(report.name), html.escape(report.path)
    path.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{name}</title><style>{STYLE}</style><h1>{name}: <span class={kind}>{verdict}</span></h1>"
        f"<p>{where}</p><table><tr>{heads}</tr>{rows}</table><h2>Lengths</h2>{draw(*histogram(report))}"
        f"<h2>Findings</h2><ul>{findings}</ul>{broken}</html>\n",
        encoding="utf-8",
    )
