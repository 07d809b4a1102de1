"""Memory of one training step per token, ours and transformers' Mamba on the same shapes, each in a process of its own.

    python benchmarks/memory.py [--json FILE] [--lengths 32 128]

Batch 8, d_model 256, 8 layers, float32: the peak of the process while one step runs, less what it held before.
"""

import multiprocessing
import resource

import torch
from measure import arguments, machine, save, show
from scan import BATCH, D_MODEL, Stack, train_step, transformers_mamba

MODELS = {"ours": Stack, "transformers_mamba": transformers_mamba}


def bytes_per_token(name: str, length: int, threads: int) -> float:
    """Peak of this process over one step, per token."""
    torch.set_num_threads(threads)
    model = MODELS[name]()
    train_step(model, torch.randn(1, 4, D_MODEL), bf16=False)
    x = torch.randn(BATCH, length, D_MODEL)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train_step(model, x, bf16=False)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (BATCH * length)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 128])
    asked = parser.parse_args()
    numbers, rows = {}, []
    for length in asked.lengths:
        kilobytes = []
        for name in MODELS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                used = pool.apply(bytes_per_token, (name, length, asked.threads))
            numbers[f"memory/{name}/l{length}_bytes_per_token"] = used
            kilobytes.append(used / 1024)
        ours, theirs = kilobytes
        rows.append([str(length), f"{ours:.0f}", f"{theirs:.0f}", f"{theirs / ours:.1f}"])
    print(machine())
    show(
        "peak memory of a training step, KiB per token",
        ["L", "ours", "transformers", "ratio"],
        rows,
    )
    save(numbers, asked.json)


if __name__ == "__main__":
    main()
