"""Word and character error rate of a finished run on test speech."""

import argparse
from pathlib import Path

import lightning as L

from configs.recipes import DIALOGUE_STAGES
from datamodules.corpora import Corpora
from evaluation.finished_run import open_run
from evaluation.saved_scores import save_lines
from lightning_modules.stage import StageModule
from lightning_modules.stages import STAGE_REGISTRY
from lightning_modules.trainer.hardware import trainer_settings
from lightning_modules.trainer.summary import print_summary
from lightning_modules.trainer.unseen import score_unseen


def score(args: argparse.Namespace) -> dict[str, float]:
    """Transcribe the test speech of a run and compare with its texts.

    Also the speech of data.test_voices and data.test_people, where the configuration names some.

    Writes scores/wer.jsonl: a line with `text` and `understood` for each utterance.

    Raises:
        ValueError: the run has no speech encoder.
    """
    run = open_run(args.run, args.overrides)
    config = run.config
    transcriber = STAGE_REGISTRY[config.stage.name].transcriber
    if transcriber is None:
        raise ValueError(
            f"{run.folder} is a run of stage {config.stage.name}, which has no speech encoder; "
            "name a run of stage encoder or asr"
        )
    # Later stages are scored as stage asr does: their model is the same, their loss is not needed.
    stage = STAGE_REGISTRY[transcriber]
    corpora = Corpora(config, splits=["test"])
    model = stage.model(config.model)
    module: StageModule = stage.module(config, model, run.checkpoint.tokenizer)
    module.model.load_state_dict(run.checkpoint.weights)
    # `logger=False`: the scores belong to the finished run, not to a new one.
    trainer = L.Trainer(**trainer_settings(config), logger=False)
    trainer.test(module, stage.data(config, corpora), verbose=False)

    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    scores |= score_unseen(config, corpora, trainer, module)
    lines = []
    for reference, transcript in module.scored:
        lines.append({"text": reference, "understood": transcript})
    save_lines(run.folder, "wer", lines)
    next_step = next_command(config.stage.name, run.folder)
    print_summary(run.folder, scores, module.scored, module.skipped, next_step)
    return scores


def next_command(stage: str, folder: Path) -> str:
    """The command to suggest after a word error rate: conversation if the run has learnt it."""
    if stage in DIALOGUE_STAGES:
        return f"make eval-duplex RUN={folder}"
    return f"make scorecard CKPT={folder}"
