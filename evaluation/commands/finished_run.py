"""What the commands share: a finished run as it was handed over, and sound as its model hears it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from configs.loading import override
from configs.recipes import DIALOGUE_STAGES
from configs.schema import Config
from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import read_audio
from datamodules.sources.audio_sources import AudioSource
from lightning_modules.trainer.checkpoint import StageCheckpoint, checkpoint_file

HEARING = ("asr", "instruct", *DIALOGUE_STAGES)
"""Stages whose runs can answer what they hear."""


class Run(NamedTuple):
    """A finished run."""

    given: StageCheckpoint
    config: Config
    """Its own, with what was asked for."""
    folder: Path

    def titled(self, what: str) -> str:
        return f"{self.folder.name} (stage {self.config.stage.name}): {what}"


def open_run(folder: Path, overrides: Sequence[str]) -> Run:
    """Raises ValueError: there is no finished run, or a word fits no key of its configuration."""
    given, whole = StageCheckpoint.load(folder), folder.resolve()
    (whole / "scores").mkdir(exist_ok=True)
    return Run(given, override(given.config, list(overrides)), whole)


def identity(folder: Path) -> str:
    """Eight hex digits that are equal for equal checkpoints. Raises ValueError: there is none."""
    file = checkpoint_file(folder)
    if not file.is_file():
        raise ValueError(
            f"no checkpoint at {file}; train one with `make train`, or name a run that has finished"
        )
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:8]


def read_whole(sound: AudioSource, config: Config, channel: int | None = None) -> np.ndarray:
    """Samples (n,) of a recording of any length, as the model hears it. Raises ValueError: it cannot be used."""
    try:
        return read_audio(
            sound, config.features.sample_rate_hz, channel=channel, min_s=0, max_s=float("inf")
        )
    except UnusableAudio as error:
        raise ValueError(f"{error}; mend or remove it") from None
