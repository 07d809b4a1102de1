"""Shared by all benchmarks: timing of variants in turn, tables, command line and results.

Variants are timed in turn, round after round, so that a change in the speed of the machine affects
all of them alike.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import logging

Times = dict[str, list[float]]
"""Variant -> milliseconds in each round."""


def interleave(
    variants: dict[str, Callable[[], object]],
    rounds: int,
    label: str,
    repeats: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Time variants in turn. A first round is not counted.

    Args:
        variants: name -> function to time.
        rounds: counted rounds.
        label: text of the progress bar.
        repeats: consecutive calls per variant and round; their mean is one time.
        clock: time in seconds.
    """
    times: Times = {name: [] for name in variants}
    # On stderr, so that tables can be redirected.
    console = Console(stderr=True)
    for round_index in track(range(rounds + 1), label, transient=True, console=console):
        for name, run in variants.items():
            start = clock()
            for _ in range(repeats):
                run()
            spent_ms = 1000 * (clock() - start) / repeats
            # The first round builds kernels and fills caches.
            if round_index > 0:
                times[name].append(spent_ms)
    return times


def median(times: Times, name: str) -> float:
    """Return the median of a variant's times, in milliseconds."""
    return statistics.median(times[name])


def ratio(times: Times, slower: str, faster: str) -> float:
    """Return the median over the rounds of slower / faster within one round."""
    # Within a round, since the speed of the machine changes from round to round.
    pairs = zip(times[slower], times[faster], strict=True)
    return statistics.median(slow / fast for slow, fast in pairs)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Create a parser with the arguments of every benchmark: --json, --threads and --rounds."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument(
        "--threads",
        type=int,
        default=torch.get_num_threads(),
        help="torch threads (default: torch's)",
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="counted rounds; medians are shown (default 7)"
    )
    return parser


def quieten_transformers() -> None:
    """Silence the warnings of transformers about its plain Mamba path, which is intended here."""
    logging.set_verbosity_error()


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table; the first column is aligned to the left, all others to the right."""
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(f"\n{title}", soft_wrap=True, highlight=False)
    console.print(table, highlight=False)


def save(numbers: dict[str, float], file: Path | None) -> None:
    """Write numbers with six digits as flat JSON, if there is a file."""
    if file is None:
        return
    rounded = {name: float(f"{value:.6g}") for name, value in numbers.items()}
    file.write_text(json.dumps(rounded, indent=1) + "\n")


def machine() -> str:
    """Describe date, processor and versions, for the top of a table."""
    processor = _processor_name()
    today = datetime.date.today()
    return f"{today}, {processor}, {os.cpu_count()} CPUs, torch {torch.__version__}"


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor()
