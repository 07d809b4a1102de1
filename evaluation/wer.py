"""Word and character error rate of a finished run on test speech."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiwer
import lightning as L

from configs.recipes import DIALOGUE_STAGES
from datamodules.corpora import Corpora
from datamodules.sources.bandwidth import narrow_band_notes, sample_rates
from datamodules.sources.corpus_manifest import join
from duplexmamba.text.tokenizer import normalise
from evaluation.finished_run import open_run
from evaluation.saved_scores import save_lines
from lightning_modules.sessions import load_weights
from lightning_modules.stage import StageModule
from lightning_modules.stages import STAGE_REGISTRY
from lightning_modules.trainer.hardware import trainer_settings
from lightning_modules.trainer.summary import print_summary
from lightning_modules.trainer.unseen import score_unseen


def score(args: argparse.Namespace) -> dict[str, float]:
    """Transcribe the test speech of a run and compare with its texts.

    Also the speech of data.test_voices and data.test_people, where the configuration names some.

    Speech that the command line names is scored whole: all of it, where it names no splits. The
    first line on the screen says how many of how many utterances are scored.

    Writes scores/wer.jsonl: a line for each utterance with `text` and `understood`, its `id`, its
    `file`, its number of `words` and of `errors`, and the `alignment`.

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
    splits = [] if _names_speech(args.overrides) else ["test"]
    corpora = Corpora(config, splits=splits)
    if _names_speech(args.overrides):
        corpora.score_whole(config)
    print("\n".join(scored_shares(corpora)), flush=True)
    model = stage.model(config.model)
    module: StageModule = stage.module(config, model, run.checkpoint.tokenizer)
    load_weights(module.model, run.checkpoint)
    # `logger=False`: the scores belong to the finished run, not to a new one.
    trainer = L.Trainer(**trainer_settings(config), logger=False)
    trainer.test(module, stage.data(config, corpora), verbose=False)
    ids = list(module.result_ids)

    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    scores |= score_unseen(config, corpora, trainer, module)
    num_left_out = sum(len(survey.skipped) for survey in corpora.surveys.values())
    scores["test/num_utterances"] = len(module.scored)
    scores["test/num_left_out"] = len(module.skipped) + num_left_out
    save_lines(run.folder, "wer", _lines(ids, module.scored, corpora))
    next_step = next_command(config.stage.name, run.folder)
    print_summary(run.folder, scores, module.scored, module.skipped, next_step)
    return scores


def _names_speech(overrides: Sequence[str]) -> bool:
    """Whether a command line names recorded speech to score."""
    return any(override.startswith(("data.path=", "data.sources")) for override in overrides)


def scored_shares(corpora: Corpora) -> list[str]:
    """One line on how much is scored, and one for each reason to leave utterances out."""
    num_recorded = sum(len(corpus) for corpus in corpora.recorded.values())
    if not num_recorded:
        return [f"test speech: {len(corpora.test)} utterances by the synthesiser"]
    lines = [f"test speech: {len(corpora.test)} of {num_recorded} recorded utterances are scored"]
    for name, survey in corpora.surveys.items():
        lines += [f"{name}: left out: {phrase}" for phrase in survey.left_out()]
        lines += [f"{name}: {note}" for note in survey.notes if len(corpora.test) < num_recorded]
    scored = corpora.recorded.get("test")
    if len(corpora.test) == num_recorded:
        scored = join(list(corpora.recorded.values()))
    if scored is not None:
        rates_hz = sample_rates(entry.path for entry in scored.entries)
        lines += narrow_band_notes(rates_hz, scored.rate_hz)
    return lines


def _lines(
    ids: Sequence[str], pairs: Sequence[tuple[str, str]], corpora: Corpora
) -> list[dict[str, Any]]:
    """Lines of scores/wer.jsonl."""
    files = _files(corpora)
    lines = []
    for id, (reference, transcript) in zip(ids, pairs, strict=True):
        line = {"id": id, "file": files.get(id, ""), "text": reference, "understood": transcript}
        lines.append(line | alignment(reference, transcript))
    return lines


def _files(corpora: Corpora) -> dict[str, str]:
    """ID -> sound file, of recorded speech."""
    files = {}
    for corpus in corpora.recorded.values():
        for entry in corpus.entries:
            files[entry.id] = str(entry.path)
    return files


def alignment(reference: str, transcript: str) -> dict[str, Any]:
    """Number of words and of errors of an utterance, and what stands for what.

    Returns:
        `words`, `errors`, and `alignment`: lists of an operation (equal, substitute, delete,
        insert), the words of the reference, and those of the transcript.
    """
    expected = normalise(reference)
    understood = normalise(transcript)
    if not expected:
        return {"words": 0, "errors": 0, "alignment": []}
    compared = jiwer.process_words(expected, understood)
    steps = []
    for step in compared.alignments[0]:
        words = compared.references[0][step.ref_start_idx : step.ref_end_idx]
        heard = compared.hypotheses[0][step.hyp_start_idx : step.hyp_end_idx]
        steps.append([step.type, " ".join(words), " ".join(heard)])
    errors = compared.substitutions + compared.deletions + compared.insertions
    return {"words": len(compared.references[0]), "errors": errors, "alignment": steps}


def next_command(stage: str, folder: Path) -> str:
    """The command to suggest after a word error rate: conversation if the run has learnt it."""
    if stage in DIALOGUE_STAGES:
        return f"make eval-duplex RUN={folder}"
    return f"make scorecard CKPT={folder}"
