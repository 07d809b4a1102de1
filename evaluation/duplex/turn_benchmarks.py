"""Full-Duplex-Bench and TurnBench on the user's own copy of their data."""

import argparse
import json
from pathlib import Path

import numpy as np

from evaluation.console import print_scores
from evaluation.duplex import full_duplex_bench, turnbench
from evaluation.duplex.play import ReadAudio
from evaluation.finished_run import Run, open_run, read_recording
from lightning_modules.sessions import open_sessions


def score_full_duplex_bench(args: argparse.Namespace) -> dict[str, float]:
    """Score the text-emission variant of Full-Duplex-Bench; writes every item's output.json.

    Raises:
        ValueError: the run was not trained on dialogues, or the folder has no items.
    """
    run = open_run(args.run, args.overrides)
    open_session = open_sessions(run.checkpoint, run.config, run.folder)
    results = full_duplex_bench.run(args.folder.resolve(), open_session, _reader(run))
    title = run.titled("Full-Duplex-Bench, text-emission variant")
    return print_scores(full_duplex_bench.scores(results), title)


def score_turnbench(args: argparse.Namespace) -> dict[str, float]:
    """Score the conversations that have gold times; writes turnbench_submission.json.

    Raises:
        ValueError: the run was not trained on dialogues, or the folder has no conversations.
    """
    run = open_run(args.run, args.overrides)
    open_session = open_sessions(run.checkpoint, run.config, run.folder)
    predicted, gold = turnbench.run(args.folder.resolve(), open_session, _reader(run))
    # Written even without gold times: the benchmark scores submissions itself.
    file = run.folder / "scores" / "turnbench_submission.json"
    file.write_text(json.dumps(turnbench.submission(predicted), indent=1) + "\n")
    title = (
        f"TurnBench, {len(gold)} of {len(predicted)} conversations with gold times; "
        f"submission: {file}"
    )
    return print_scores(turnbench.scores(predicted, gold), run.titled(title))


def _reader(run: Run) -> ReadAudio:
    """A function that reads audio files at the sample rate of a run's model."""

    # The benchmarks know neither configurations nor runs, only this function.
    def read(file: Path, channel: int | None) -> np.ndarray:
        return read_recording(file, run.config, channel)

    return read
