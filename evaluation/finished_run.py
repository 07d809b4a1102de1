"""A finished run, opened for scoring."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from configs.loading import override
from configs.schema import Config
from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import read_audio
from datamodules.sources.audio_sources import AudioSource
from lightning_modules.trainer.checkpoint import StageCheckpoint, checkpoint_file

HASH_DIGITS = 8


class Run(NamedTuple):
    """A finished run."""

    checkpoint: StageCheckpoint
    config: Config
    """Configuration of the training with the overrides of the command line."""
    folder: Path

    def titled(self, what: str) -> str:
        """Title of a screen or figure: the run, its stage, and what is shown."""
        return f"{self.folder.name} (stage {self.config.stage.name}): {what}"


def open_run(folder: Path, overrides: Sequence[str]) -> Run:
    """Load a run and create its folder of scores.

    Args:
        folder: of the run; may be a link.
        overrides: `key=value`, applied to the configuration of the run.

    Raises:
        ValueError: the run has no checkpoint, an override fits no key, or the folder of scores
            cannot be written.
    """
    checkpoint = StageCheckpoint.load(folder)
    # runs/latest is a link; titles and files should name the run itself.
    resolved = folder.resolve()
    folder_of_scores = resolved / "scores"
    is_there = folder_of_scores.is_dir()
    # Checked first, so that it is not noticed only after minutes of scoring.
    if not os.access(folder_of_scores if is_there else resolved, os.W_OK):
        raise ValueError(
            f"{folder_of_scores} cannot be written; copy the run to a folder of your own and name "
            "that"
        )
    folder_of_scores.mkdir(exist_ok=True)
    config = override(checkpoint.config, list(overrides))
    return Run(checkpoint, config, resolved)


def checkpoint_hash(folder: Path) -> str:
    """Eight hex digits that identify the checkpoint of a run by its content.

    Raises:
        ValueError: the run has no checkpoint.
    """
    file = checkpoint_file(folder)
    if not file.is_file():
        raise ValueError(
            f"no checkpoint at {file}; train one with `make train`, or name a run that has finished"
        )
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return digest[:HASH_DIGITS]


def read_recording(source: AudioSource, config: Config, channel: int | None = None) -> np.ndarray:
    """Samples (n,) of a recording of any length, at the sample rate of the model.

    Args:
        source: file or bytes.
        config: gives the sample rate.
        channel: to read; None for the mean of all.

    Raises:
        ValueError: the recording cannot be read.
    """
    # The limits on length are those of training batches, which do not apply to benchmarks.
    try:
        return read_audio(
            source, config.features.sample_rate_hz, channel=channel, min_s=0, max_s=float("inf")
        )
    except UnusableAudio as error:
        raise ValueError(f"{error}; repair or remove it") from None
