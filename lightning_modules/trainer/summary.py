"""The end of a stage: summary.json for programs, one screen for people."""

import json
import resource
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

SUMMARY = "summary.json"
EXAMPLES = 5


def write_summary(
    folder: Path, scores: dict[str, float], seconds: dict[str, float]
) -> dict[str, float]:
    """Flat numbers with units in their names: scores, time/<stage>_s, time/total_s, memory/peak_gib."""
    times = {f"time/{stage}_s": round(value, 1) for stage, value in seconds.items()}
    summary = {
        **scores,
        **times,
        "time/total_s": round(sum(seconds.values()), 1),
        "memory/peak_gib": peak_gib(),
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def peak_gib() -> float:
    """Largest resident memory of this process, or of the GPU where one was used, in GiB."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    device = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    return round(max(host, device), 2)


def print_summary(
    folder: Path,
    summary: dict[str, float],
    pairs: list[tuple[str, str]],
    skipped: list[str],
    next_command: str,
) -> None:
    """Scores, examples, times, and what to do next."""
    out = Console(width=max(100, Console().width))
    out.rule(f"{folder.name}: scores on voices and sentences it never met", align="left")
    table = Table(show_header=False, box=None)
    for name, value in summary.items():
        table.add_row(name, shown(name, value))
    out.print(table)
    examples = Table("said", "understood", box=None)
    for reference, hypothesis in pairs[:: max(1, len(pairs) // EXAMPLES)][:EXAMPLES]:
        examples.add_row(reference, hypothesis, style="" if reference == hypothesis else "red")
    out.print(examples)
    for line in skipped[:3]:
        out.print(f"left out ({len(skipped)} in all): {line}", markup=False)
    out.print(f"run:  {folder}\nnext: {next_command}", markup=False)


def shown(name: str, value: float) -> str:
    """A number of the summary as people read it."""
    if name.startswith("params/"):
        return f"{value:,}"
    return f"{value:.2%}" if name in ("test/wer", "test/cer", "test/exact_match") else f"{value:g}"
