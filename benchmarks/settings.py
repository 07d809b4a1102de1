"""Gain of the trainer's settings for a CPU: matmul precision, keeping freed memory, threads.

    python benchmarks/settings.py [--json FILE] [--length 2048]

Matmul precision: products of 1024 x 1024, and their error against float64. The other settings:
training steps of four of our layers, batch 8. Each setting has a process of its own, since the
allocator and the threads belong to a process.
"""

import functools
import multiprocessing
import statistics
import time

import torch
from measure import Times, arguments, interleave, machine, median, ratio, save, show
from scan import BATCH, D_MODEL, Stack, train_step

from lightning_modules.trainer.hardware import keep_freed_memory

SIZE = 1024
"""Rows and columns of the matrices."""

REPETITIONS = 2
"""Processes per setting."""


def multiply(a: torch.Tensor, b: torch.Tensor, precision: str) -> torch.Tensor:
    """Multiply matrices with a value of `torch.set_float32_matmul_precision`."""
    torch.set_float32_matmul_precision(precision)
    return a @ b


def bench_precision(rounds: int) -> dict[str, float]:
    """Measure speed and error of each matmul precision; print a table and return the numbers."""
    a, b = torch.randn(2, SIZE, SIZE)
    exact = a.double() @ b.double()
    precisions = ("highest", "high", "medium")
    variants = {name: functools.partial(multiply, a, b, name) for name in precisions}
    times = interleave(variants, rounds, "matmul")
    errors = {}
    for name, run in variants.items():
        # Relative to the largest value, since single values may be close to zero.
        largest_error = (run() - exact).abs().max()
        errors[name] = float(largest_error / exact.abs().max())
    rows = [[name, f"{median(times, name):.2f}", f"{errors[name]:.1e}"] for name in precisions]
    columns = ["precision", "ms", "error / largest value"]
    show(f"float32 product of {SIZE} x {SIZE}", columns, rows)
    return {
        "settings/medium_speedup": ratio(times, "highest", "medium"),
        "settings/medium_error": errors["medium"],
        "settings/highest_error": errors["highest"],
    }


def steps_ms(keep: bool, threads: int, length: int, rounds: int) -> float:
    """Measure training steps in this process.

    Args:
        keep: whether freed memory is kept.
        threads: torch threads.
        length: tokens per row.
        rounds: counted steps; a first one is not counted.

    Returns:
        Median milliseconds of a step.
    """
    torch.set_num_threads(threads)
    if keep:
        keep_freed_memory()
    model = Stack(layers=4)
    x = torch.randn(BATCH, length, D_MODEL)
    spent_ms = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        train_step(model, x, bf16=False)
        spent_ms.append(1000 * (time.perf_counter() - start))
    # The first step builds kernels and gets its memory from the system.
    return statistics.median(spent_ms[1:])


def bench_processes(length: int, rounds: int, threads: int) -> dict[str, float]:
    """Measure allocator and threads, one process after the other; print a table.

    Returns:
        The numbers by name.
    """
    variants = {
        "default": (False, threads),
        "keep freed memory": (True, threads),
        "one thread": (True, 1),
    }
    times: Times = {name: [] for name in variants}
    for _ in range(REPETITIONS):
        for name, (keep, num_threads) in variants.items():
            # A new process, since neither setting can be undone in an old one.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                step_ms = pool.apply(steps_ms, (keep, num_threads, length, rounds))
            times[name].append(step_ms)
    rows = [[name, f"{median(times, name):.0f}"] for name in variants]
    show(f"training step, 4 layers, L {length}", ["", "ms"], rows)
    return {
        "settings/keep_freed_memory_speedup": ratio(times, "default", "keep freed memory"),
        "settings/one_thread_over_all": ratio(times, "one thread", "keep freed memory"),
    }


def main() -> None:
    """Measure all settings, print tables and save the numbers."""
    parser = arguments(__doc__)
    parser.add_argument("--length", type=int, default=2048)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{machine()}, {args.threads} threads")
    numbers = bench_precision(args.rounds)
    numbers |= bench_processes(args.length, args.rounds, args.threads)
    save(numbers, args.json)


if __name__ == "__main__":
    main()
