"""The end of a stage: summary.json for programs, one screen for people."""

import json
import resource
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

SUMMARY = "summary.json"
NUM_EXAMPLES = 5
"""Pairs of reference and hypothesis on the screen."""
NUM_SKIPPED = 3
"""Utterances on the screen that could not be used."""
MIN_WIDTH = 100
"""Columns of the screen, even where the terminal reports fewer."""
SHARES = ("test/wer", "test/cer", "test/exact_match")
"""Beginnings of the names of scores that are shown in per cent: test/wer_voices is one too."""


def write_summary(
    folder: Path, scores: dict[str, float], seconds: dict[str, float]
) -> dict[str, float]:
    """Write summary.json: flat numbers with units in their names.

    Args:
        folder: the run's folder.
        scores: name -> value, written as they are.
        seconds: stage -> training time of this stage and of those it depends on.

    Returns:
        The scores, and in addition time/<stage>_s, time/total_s and memory/peak_gib.
    """
    summary = dict(scores)
    for stage, duration_s in seconds.items():
        summary[f"time/{stage}_s"] = round(duration_s, 1)
    summary["time/total_s"] = round(sum(seconds.values()), 1)
    summary["memory/peak_gib"] = peak_gib()
    # in one step: another process takes a run with this file for a finished one
    temporary = folder / f".{SUMMARY}"
    temporary.write_text(json.dumps(summary, indent=1) + "\n")
    temporary.replace(folder / SUMMARY)
    return summary


def read_summary(folder: Path) -> dict[str, float]:
    """Read the summary of a finished run.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / SUMMARY
    try:
        summary: dict[str, float] = json.loads(path.read_text())
    except ValueError:
        raise ValueError(
            f"{path} is damaged; delete it: the same command scores the run again, or trains it "
            "anew where no last.ckpt is left"
        ) from None
    return summary


def stage_times(summary: Mapping[str, float]) -> dict[str, float]:
    """The inverse of what `write_summary` does with its seconds: stage -> seconds."""
    seconds = {}
    for name, value in summary.items():
        if name.startswith("time/") and name != "time/total_s":
            stage = name.removeprefix("time/").removesuffix("_s")
            seconds[stage] = value
    return seconds


def peak_gib() -> float:
    """Largest resident memory of this process, or of its GPU where that is more, in GiB."""
    # ru_maxrss counts KiB
    host_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    device_gib = 0.0
    if torch.cuda.is_available():
        device_gib = torch.cuda.max_memory_allocated() / 2**30
    return round(max(host_gib, device_gib), 2)


def print_summary(
    folder: Path,
    summary: dict[str, float],
    pairs: list[tuple[str, str]],
    skipped: list[str],
    next_command: str,
) -> None:
    """Print scores, examples, skipped utterances, and the command that comes next.

    Args:
        folder: the run's folder.
        summary: the numbers to show.
        pairs: (reference, hypothesis) of every scored utterance; a few are shown, those with errors
            in red.
        skipped: one sentence for every utterance that could not be used.
        next_command: the command to suggest.
    """
    out = Console(width=max(MIN_WIDTH, Console().width))
    out.rule(f"{folder.name}: scores", align="left")
    out.print(_score_table(summary))
    out.print(_example_table(pairs))
    # without markup: file names may contain brackets
    for line in skipped[:NUM_SKIPPED]:
        out.print(f"left out ({len(skipped)} in all): {line}", markup=False)
    out.print(f"run:  {folder}\nnext: {next_command}", markup=False)


def _score_table(summary: dict[str, float]) -> Table:
    table = Table(show_header=False, box=None)
    for name, value in summary.items():
        table.add_row(name, format_value(name, value))
    return table


def _example_table(pairs: list[tuple[str, str]]) -> Table:
    table = Table("reference", "hypothesis", box=None)
    # spread over the whole set, not its beginning
    stride = max(1, len(pairs) // NUM_EXAMPLES)
    for reference, hypothesis in pairs[::stride][:NUM_EXAMPLES]:
        style = "" if reference == hypothesis else "red"
        table.add_row(reference, hypothesis, style=style)
    return table


def format_value(name: str, value: float) -> str:
    """Format a number of the summary for people."""
    if name.startswith("params/"):
        return f"{value:,}"
    if name.startswith(SHARES):
        return f"{value:.2%}"
    return f"{value:g}"
