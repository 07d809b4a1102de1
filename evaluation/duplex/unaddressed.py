"""Answers to human talk that is not meant for the model: a radio, people at the next table."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import read_audio
from datamodules.synthetic.recorded_noise import sound_files
from evaluation.console import with_progress
from evaluation.duplex.dialogues import PlayedDialogue
from evaluation.duplex.play import OpenSession, play
from evaluation.record import ScoreValue

SILENCE_S = 2.0
"""Silence after each recording, in which a late answer begins."""


def find_recordings(folder: str) -> list[Path]:
    """Sound files below a folder, in order.

    Raises:
        ValueError: there are none.
    """
    return sound_files(folder, "data.test_unaddressed")


def play_unaddressed(folder: str, open_session: OpenSession) -> list[PlayedDialogue]:
    """Play each sound file of a folder to a session of its own.

    Files that cannot be read are named and left out.

    Args:
        folder: value of data.test_unaddressed; sound files at any depth.
        open_session: opens the sessions.

    Raises:
        ValueError: the folder holds no sound files.
    """
    session = open_session()
    played = []
    for path in with_progress(find_recordings(folder), "recordings"):
        try:
            samples = read_audio(path, session.rate_hz, min_s=0.0, max_s=math.inf)
        except UnusableAudio as error:
            print(f"left out: {error}")
            continue
        num_silent = round(SILENCE_S * session.rate_hz)
        num_slices = math.ceil((len(samples) + num_silent) / session.slice_samples)
        padded = np.pad(samples, (0, num_slices * session.slice_samples - len(samples)))
        name = str(path.relative_to(Path(folder)))
        script = PlayedDialogue(name, session.slice_s, [], ["ignore"] * num_slices)
        played.append(play(open_session, padded, script))
    return played


def answers_to_unaddressed(played: Sequence[PlayedDialogue]) -> dict[str, ScoreValue]:
    """Answers in an hour of talk, of so many recordings; nothing without recordings.

    The time includes the silence after each recording. "sorry i did not understand" is an answer
    too: nobody has asked anything.
    """
    if not played:
        return {}
    num_answers = sum(len(dialogue.responses) for dialogue in played)
    seconds = sum(len(dialogue.labels) * dialogue.slice_s for dialogue in played)
    per_hour = 3600 * num_answers / seconds
    return {"unaddressed/answers_per_hour": ScoreValue(per_hour, len(played))}
