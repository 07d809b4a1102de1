"""Train a stage, and first the stages that it starts from where these are not trained yet.

    python train.py configs/preset/tiny.yaml configs/stage/asr.yaml optim.lr=1e-3
    python train.py configs/preset/tiny.yaml configs/stage/instruct.yaml lora_drop.enabled=true

The program reads the configuration (`configs.loading`), finds the stages that are still missing
(`lightning_modules.trainer.stage_graph`) and trains each of them (`lightning_modules.trainer.run`).
Stages that depend on no other stage are trained at the same time where there are enough CPU cores.
"""

from lightning_modules.trainer.train import argument_parser, run_command
from lightning_modules.trainer.train import train as main

__all__ = ["main"]

if __name__ == "__main__":
    parsed = argument_parser(__doc__).parse_intermixed_args()
    run_command(parsed.args, parsed.only_stage)
