"""Word and character error rate."""

import argparse
import json

import lightning as L

from datamodules.data import Corpora
from evaluation.commands.finished_run import open_run
from lightning_modules.stage import StageModule
from lightning_modules.stages import STAGE_REGISTRY
from lightning_modules.trainer.hardware import trainer_settings
from lightning_modules.trainer.summary import print_summary


def score(asked: argparse.Namespace) -> dict[str, float]:
    """Of the run's test speech, transcribed as its stage does.

    Raises:
        ValueError: the run is of stage lm, which hears nothing.
    """
    given, config, run = open_run(asked.run, asked.overrides)
    transcriber = STAGE_REGISTRY[config.stage.name].transcriber
    if transcriber is None:
        raise ValueError(
            f"{run} is a run of stage {config.stage.name}, which has no speech encoder; name a run of "
            "stage encoder or asr"
        )
    stage = STAGE_REGISTRY[transcriber]
    corpora = Corpora(config, splits=["test"])
    module: StageModule = stage.module(config, stage.model(config.model), given.tokenizer)
    module.model.load_state_dict(given.weights)
    trainer = L.Trainer(**trainer_settings(config), logger=False)
    trainer.test(module, stage.data(config, corpora), verbose=False)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    lines = [
        json.dumps({"text": said, "understood": understood}) for said, understood in module.scored
    ]
    (run / "scores" / "wer.jsonl").write_text("\n".join(lines) + "\n")
    print_summary(run, scores, module.scored, module.skipped, "make help")
    return scores
