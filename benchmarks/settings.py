"""What the trainer's settings for a CPU are worth: matmul precision, keeping freed memory, threads.

    python benchmarks/settings.py [--json FILE] [--length 2048]

Matmul precision: products of 1024 x 1024 and their error against float64. The others: training steps of four of our
layers, batch 8, in a process of their own each, since allocator and threads belong to a process.
"""

import functools
import multiprocessing
import statistics
import time

import torch
from measure import arguments, interleave, machine, median, ratio, save, show
from scan import BATCH, D_MODEL, Stack, train_step

from lightning_modules.trainer.hardware import keep_freed_memory

SIZE = 1024


def bench_precision(rounds: int) -> dict[str, float]:
    """Speed and error of `medium` against `highest`."""
    a, b = torch.randn(2, SIZE, SIZE)
    exact = a.double() @ b.double()

    def product(precision: str) -> torch.Tensor:
        torch.set_float32_matmul_precision(precision)
        return a @ b

    names = ("highest", "high", "medium")
    times = interleave({name: functools.partial(product, name) for name in names}, rounds, "matmul")
    errors = {
        name: float((product(name) - exact).abs().max() / exact.abs().max()) for name in names
    }
    rows = [[name, f"{median(times, name):.2f}", f"{errors[name]:.1e}"] for name in names]
    show(f"float32 product of {SIZE} x {SIZE}", ["precision", "ms", "error / largest value"], rows)
    return {
        "settings/medium_speedup": ratio(times, "highest", "medium"),
        "settings/medium_error": errors["medium"],
        "settings/highest_error": errors["highest"],
    }


def steps_ms(keep: bool, threads: int, length: int, rounds: int) -> float:
    """Median milliseconds of a training step in this process."""
    torch.set_num_threads(threads)
    if keep:
        keep_freed_memory()
    model, x, spent = Stack(layers=4), torch.randn(BATCH, length, D_MODEL), []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        train_step(model, x, bf16=False)
        spent.append(1000 * (time.perf_counter() - begun))
    return statistics.median(spent[1:])


def bench_processes(length: int, rounds: int, threads: int) -> dict[str, float]:
    """One process after the other, twice in turn."""
    variants = {
        "default": (False, threads),
        "keep freed memory": (True, threads),
        "one thread": (True, 1),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(2):
        for name, (keep, number) in variants.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                times[name].append(pool.apply(steps_ms, (keep, number, length, rounds)))
    show(
        f"training step, 4 layers, L {length}",
        ["", "ms"],
        [[n, f"{median(times, n):.0f}"] for n in variants],
    )
    return {
        "settings/keep_freed_memory_speedup": ratio(times, "default", "keep freed memory"),
        "settings/one_thread_over_all": ratio(times, "one thread", "keep freed memory"),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--length", type=int, default=2048)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"{machine()}, {asked.threads} threads")
    numbers = bench_precision(asked.rounds) | bench_processes(
        asked.length, asked.rounds, asked.threads
    )
    save(numbers, asked.json)


if __name__ == "__main__":
    main()
