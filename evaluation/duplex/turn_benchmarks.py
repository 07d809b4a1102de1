"""Full-Duplex-Bench on the user's own copy of their data."""

import argparse
from pathlib import Path

import numpy as np

from evaluation.console import print_scores
from evaluation.duplex import full_duplex_bench
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


def _reader(run: Run) -> ReadAudio:
    """A function that reads audio files at the sample rate of a run's model."""

    # The benchmarks know neither configurations nor runs, only this function.
    def read(file: Path, channel: int | None) -> np.ndarray:
        return read_recording(file, run.config, channel)

    return read
