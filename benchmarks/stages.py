"""Time of training updates of preset tiny's stages, and what speeds them up.

    python benchmarks/stages.py [--json FILE] [--updates 4] [--stages asr instruct streaming]

Compared are one thread and two, with data workers running; the kernels for silu, softplus and gates
and torch's own; linear layers in float32 and in bfloat16; and, in stage streaming, branches that
share the prefixes they have in common and branches that do not (`each row alone`).

All weights are random. The variants with threads take consecutive updates of one stream, in turn.
All others run on one thread, and take the same updates of stored batches.
"""

import functools
import tempfile
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from measure import arguments, interleave, machine, median, ratio, save, show

from configs.loading import load_config
from datamodules.corpora import Corpora
from duplexmamba.ops import gates
from lightning_modules import dialogue
from lightning_modules.assembly import build
from lightning_modules.fork_schedule import ScheduledSegment
from lightning_modules.trainer.bf16_products import Bf16Products
from lightning_modules.trainer.hardware import set_up_torch

STAGES = ("asr", "instruct", "streaming")

Update = Callable[..., None]
"""Trains on batches; takes the function that shares prefixes of segments as an option."""


def training_of(stage: str) -> tuple[Update, Iterable[Any]]:
    """The function that trains a stage, and its endless training batches."""
    config = load_config(
        ["configs/preset/tiny.yaml", f"configs/stage/{stage}.yaml", "data.synthetic_ramp=0"]
    )
    set_up_torch(config)
    with tempfile.TemporaryDirectory() as folder:
        module, data = build(config, Corpora(config), {}, Path(folder))
    module.train()
    optimizer = torch.optim.AdamW(
        (p for p in module.model.parameters() if p.requires_grad), fused=True
    )

    def update(
        batches: Iterable[Any],
        share: Callable[[list[ScheduledSegment]], list[ScheduledSegment]] = dialogue.share_prefixes,
    ) -> None:
        # decides which slices are probed
        torch.manual_seed(0)
        with patch.object(dialogue, "share_prefixes", share):
            for batch in batches:
                module.training_loss(batch).backward()
                optimizer.step()
                optimizer.zero_grad()

    return update, iter(data.train_dataloader())


def on_threads(update: Update, batches: Iterable[Any], count: int, threads: int) -> None:
    """Run the next `count` updates with a number of threads."""
    torch.set_num_threads(threads)
    update(islice(batches, count))


def without_gates(update: Update, batches: Iterable[Any]) -> Callable[[], None]:
    """Run the updates with torch's own silu, softplus and products."""

    def run() -> None:
        with patch.object(gates, "_has_kernel", lambda x: False):
            update(batches)

    return run


def in_bf16(update: Update, batches: Iterable[Any]) -> Callable[[], None]:
    """Run the updates with the products of linear layers in bfloat16."""

    def run() -> None:
        with Bf16Products():
            update(batches)

    return run


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--updates", type=int, default=4, help="of each variant in each round (default 4)"
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    args = parser.parse_args()
    numbers: dict[str, float] = {}
    rows: list[list[str]] = []
    for stage in args.stages:
        update, batches = training_of(stage)
        next_on = functools.partial(on_threads, update, batches, args.updates)
        threads = {
            "1 thread": functools.partial(next_on, 1),
            "2 threads": functools.partial(next_on, 2),
        }
        times = interleave(threads, args.rounds, stage)
        numbers[f"{stage}/two_threads_speedup"] = ratio(times, "1 thread", "2 threads")
        torch.set_num_threads(1)
        batches_stored = list(islice(batches, args.updates))
        gate_variants = {
            "torch gates": without_gates(update, batches_stored),
            "kernel gates": functools.partial(update, batches_stored),
        }
        times |= interleave(gate_variants, args.rounds, "gates")
        numbers[f"{stage}/gates_speedup"] = ratio(times, "torch gates", "kernel gates")
        product_variants = {
            "float32 products": functools.partial(update, batches_stored),
            "bf16 products": in_bf16(update, batches_stored),
        }
        times |= interleave(product_variants, args.rounds, "products")
        numbers[f"{stage}/bf16_speedup"] = ratio(times, "float32 products", "bf16 products")
        if stage == "streaming":
            variants = {
                "each row alone": functools.partial(update, batches_stored, list),
                "shared": functools.partial(update, batches_stored),
            }
            times |= interleave(variants, args.rounds, "branches")
            numbers["streaming/sharing_speedup"] = ratio(times, "each row alone", "shared")
        seconds = {name: median(times, name) / 1000 / args.updates for name in times}
        numbers |= {f"{stage}/{name.replace(' ', '_')}_s": value for name, value in seconds.items()}
        rows += [[stage, name, f"{value:.2f}"] for name, value in seconds.items()]
    print(machine())
    show("seconds of an update, preset tiny", ["stage", "variant", "s"], rows)
    save(numbers, args.json)


if __name__ == "__main__":
    main()
