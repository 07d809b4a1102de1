"""train.py, with a line in the file LOG for every batch: its update and its texts.

python -m tests.record_items LOG configs/preset/tiny.yaml ...
"""

import json
import sys
from pathlib import Path
from typing import Any

from lightning_modules.stage import StageModule
from lightning_modules.trainer.exits import exit_cleanly, quiet_libraries
from train import main


def record(log: Path) -> None:
    on_train_batch_start = StageModule.on_train_batch_start

    def note(module: StageModule, batch: Any, batch_idx: int) -> None:
        with log.open("a") as lines:
            lines.write(json.dumps([module.global_step, batch_idx % 2, batch.texts]) + "\n")
        on_train_batch_start(module, batch, batch_idx)

    StageModule.on_train_batch_start = note  # type: ignore[method-assign]


if __name__ == "__main__":
    record(Path(sys.argv[1]))
    quiet_libraries()
    with exit_cleanly():
        main(sys.argv[2:])
