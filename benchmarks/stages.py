"""Updates of preset tiny's stages with one thread and with two, beside their data worker; and how branches are read.

    python benchmarks/stages.py [--json FILE] [--updates 4] [--stages asr instruct streaming]

Random weights; each variant in turn takes the next updates of one stream. `each row alone` is stage streaming without
sharing what the rows of one branch hear.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from measure import arguments, interleave, machine, median, ratio, save, show

from datamodules.data import Corpora
from duplexmamba.config import load_config
from lightning_modules import dialogue
from lightning_modules.assembly import build
from lightning_modules.dialogue import Placed
from lightning_modules.entry import set_up_torch

STAGES = ("asr", "instruct", "streaming")


def updates_of(stage: str, count: int) -> Callable[..., None]:
    """A function of the number of threads, and of what is done about rows that hear the same, that makes the next
    updates."""
    config = load_config(["configs/preset/tiny.yaml", f"configs/stage/{stage}.yaml", "data.synthetic_ramp=0"])
    set_up_torch(config)
    with tempfile.TemporaryDirectory() as folder:
        module, data = build(config, Corpora(config), {}, Path(folder))
    module.train()
    optimizer = torch.optim.AdamW((p for p in module.model.parameters() if p.requires_grad), fused=True)
    batches = iter(data.train_dataloader())

    def update(threads: int, share: Callable[[list[Placed]], list[Placed]] = dialogue.share) -> None:
        torch.set_num_threads(threads)
        with patch.object(dialogue, "share", share):
            for _ in range(count):
                module.model_step(next(batches)).backward()
                optimizer.step()
                optimizer.zero_grad()

    return update


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--updates", type=int, default=4, help="of each variant in each round (default 4)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    asked = parser.parse_args()
    numbers, rows = {}, []
    for stage in asked.stages:
        update = updates_of(stage, asked.updates)
        variants = {"one": functools.partial(update, 1), "two": functools.partial(update, 2)}
        if stage == "streaming":
            variants["two, each row alone"] = functools.partial(update, 2, list)
        times = interleave(variants, asked.rounds, stage)
        numbers[f"{stage}/two_threads_speedup"] = ratio(times, "one", "two")
        numbers |= {f"{stage}/{n}_s": median(times, n) / 1000 / asked.updates for n in ("one", "two")}
        if stage == "streaming":
            numbers["streaming/sharing_speedup"] = ratio(times, "two, each row alone", "two")
        rows += [[stage, name, f"{median(times, name) / 1000 / asked.updates:.2f}"] for name in times]
    print(machine())
    show("seconds of an update, preset tiny", ["stage", "threads", "s"], rows)
    save(numbers, asked.json)


if __name__ == "__main__":
    main()
