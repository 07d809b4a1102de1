"""Memory of one training step per token: our Mamba and that of transformers, with equal shapes.

    python benchmarks/memory.py [--json FILE] [--lengths 32 128]

Batch 8, d_model 256, 8 layers, float32. The number is the peak memory of a process while one step
runs, minus what it had before. Each model and length has a process of its own.
"""

import multiprocessing
import resource

import torch
from measure import arguments, machine, save, show
from scan import BATCH, D_MODEL, Stack, train_step, transformers_mamba

MODELS = {"ours": Stack, "transformers_mamba": transformers_mamba}
"""Name -> function that builds a model."""


def peak_bytes() -> int:
    """Return the peak memory of this process so far."""
    # ru_maxrss counts kilobytes on Linux.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bytes_per_token(name: str, length: int, threads: int) -> float:
    """Measure the peak memory of one training step per token, in this process.

    Args:
        name: key of MODELS.
        length: tokens per row.
        threads: torch threads.
    """
    torch.set_num_threads(threads)
    model = MODELS[name]()
    # A small step first, so that libraries and kernels do not count.
    train_step(model, torch.randn(1, 4, D_MODEL), bf16=False)
    x = torch.randn(BATCH, length, D_MODEL)
    before = peak_bytes()
    train_step(model, x, bf16=False)
    return (peak_bytes() - before) / (BATCH * length)


def main() -> None:
    """Measure all models and lengths; print a table and save the numbers."""
    parser = arguments(__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 128])
    args = parser.parse_args()
    numbers: dict[str, float] = {}
    rows = []
    for length in args.lengths:
        kibibytes = []
        for name in MODELS:
            # The peak of a process never falls, hence a new one for each measurement.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                used = pool.apply(bytes_per_token, (name, length, args.threads))
            numbers[f"memory/{name}/l{length}_bytes_per_token"] = used
            kibibytes.append(used / 1024)
        ours, theirs = kibibytes
        rows.append([str(length), f"{ours:.0f}", f"{theirs:.0f}", f"{theirs / ours:.1f}"])
    print(machine())
    columns = ["L", "ours", "transformers", "ratio"]
    show("peak memory of a training step, KiB per token", columns, rows)
    save(numbers, args.json)


if __name__ == "__main__":
    main()
