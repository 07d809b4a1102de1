"""Timing side by side: every variant in turn, round after round, so that a drift of the machine meets all alike."""

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


def interleave(
    variants: dict[str, Callable[[], object]], rounds: int, label: str, repeats: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:  # fmt: skip
    """Milliseconds of each variant in each round, `repeats` calls on end; one round before them does not count."""
    times: Times = {name: [] for name in variants}
    for counted in track(
        [False] + [True] * rounds, label, transient=True, console=Console(stderr=True)
    ):
        for name, run in variants.items():
            begun = clock()
            for _ in range(repeats):
                run()
            if counted:
                times[name].append(1000 * (clock() - begun) / repeats)
    return times


def median(times: Times, name: str) -> float:
    """Milliseconds."""
    return statistics.median(times[name])


def ratio(times: Times, slower: str, faster: str) -> float:
    """Median over the rounds of slower / faster within one round."""
    return statistics.median(a / b for a, b in zip(times[slower], times[faster], strict=True))


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every benchmark takes."""
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
    """Its plain path on a CPU is what is measured; it need not say so."""
    logging.set_verbosity_error()


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on the screen."""
    table = Table()
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(f"\n{title}", soft_wrap=True, highlight=False)
    Console().print(table, highlight=False)


def save(numbers: dict[str, float], file: Path | None) -> None:
    """Flat JSON, where a file was asked for."""
    if file:
        file.write_text(
            json.dumps({name: float(f"{value:.6g}") for name, value in numbers.items()}, indent=1)
            + "\n"
        )


def machine() -> str:
    """Date, processor and versions, to stand over a table."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor()
    return f"{datetime.date.today()}, {cpu}, {os.cpu_count()} CPUs, torch {torch.__version__}"
