"""Updates of preset tiny's stages with one thread and with two, beside their data workers; with the kernels for silu,
softplus and gates and without; and how branches are read.

    python benchmarks/stages.py [--json FILE] [--updates 4] [--stages asr instruct streaming]

Random weights. Threads: each variant in turn takes the next updates of one stream. The rest, on one thread: both
variants take the same updates, of held batches. Branches, in stage streaming: `each row alone` does not share what the
rows of one branch hear.
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
from datamodules.data import Corpora
from duplexmamba.ops import gates
from lightning_modules import dialogue
from lightning_modules.assembly import build
from lightning_modules.dialogue import ScheduledSegment
from lightning_modules.trainer.hardware import set_up_torch

STAGES = ("asr", "instruct", "streaming")

Update = Callable[..., None]
"""Of batches, and of what is done about rows that hear the same."""


def training_of(stage: str) -> tuple[Update, Iterable[Any]]:
    """What makes updates, and batches without end."""
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
        share: Callable[[list[ScheduledSegment]], list[ScheduledSegment]] = dialogue.share,
    ) -> None:
        torch.manual_seed(0)  # which slices are probed
        with patch.object(dialogue, "share", share):
            for batch in batches:
                module.model_step(batch).backward()
                optimizer.step()
                optimizer.zero_grad()

    return update, iter(data.train_dataloader())


def on_threads(update: Update, batches: Iterable[Any], count: int, threads: int) -> None:
    """The next `count` updates."""
    torch.set_num_threads(threads)
    update(islice(batches, count))


def without_gates(update: Update, batches: Iterable[Any]) -> Callable[[], None]:
    """The same updates with torch's own silu, softplus and products."""

    def run() -> None:
        with patch.object(gates, "_has_kernel", lambda x: False):
            update(batches)

    return run


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--updates", type=int, default=4, help="of each variant in each round (default 4)"
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    asked = parser.parse_args()
    numbers, rows = {}, []
    for stage in asked.stages:
        update, batches = training_of(stage)
        next_on = functools.partial(on_threads, update, batches, asked.updates)
        threads = {
            "1 thread": functools.partial(next_on, 1),
            "2 threads": functools.partial(next_on, 2),
        }
        times = interleave(threads, asked.rounds, stage)
        numbers[f"{stage}/two_threads_speedup"] = ratio(times, "1 thread", "2 threads")
        torch.set_num_threads(1)
        held = list(islice(batches, asked.updates))
        made = {
            "torch gates": without_gates(update, held),
            "kernel gates": functools.partial(update, held),
        }
        times |= interleave(made, asked.rounds, "gates")
        numbers[f"{stage}/gates_speedup"] = ratio(times, "torch gates", "kernel gates")
        if stage == "streaming":
            ways = {
                "each row alone": functools.partial(update, held, list),
                "shared": functools.partial(update, held),
            }
            times |= interleave(ways, asked.rounds, "branches")
            numbers["streaming/sharing_speedup"] = ratio(times, "each row alone", "shared")
        seconds = {name: median(times, name) / 1000 / asked.updates for name in times}
        numbers |= {f"{stage}/{name.replace(' ', '_')}_s": value for name, value in seconds.items()}
        rows += [[stage, name, f"{value:.2f}"] for name, value in seconds.items()]
    print(machine())
    show("seconds of an update, preset tiny", ["stage", "variant", "s"], rows)
    save(numbers, asked.json)


if __name__ == "__main__":
    main()
