"""Speech of slow synthesisers, kept on disk for all stages, runs and sweeps."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import soundfile

from datamodules.synthetic.espeak import Speech
from datamodules.synthetic.synthesiser import Voice, speech_of_file

FORMAT = 1
"""Part of every key: another number makes all files of earlier versions unused."""


class SpeechCache:
    """A folder of FLAC files, one for each text and voice.

    Several processes may use it at a time: a file appears complete or not at all. A damaged file is
    spoken again.

    Args:
        folder: made when the first file is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, text: str, voice: Voice, version: str) -> Path:
        """Path of the speech of a text in a voice.

        Args:
            text: the sentence.
            voice: the voice.
            version: identifies the voice file or command of the voice.
        """
        settings = dict(sorted(voice.settings.items()))
        key = json.dumps([FORMAT, voice.synthesiser, version, voice.name, settings, text])
        digest = hashlib.sha256(key.encode()).hexdigest()
        # 256 folders, since some file systems are slow with many files in one.
        return self.folder / voice.synthesiser / digest[:2] / f"{digest[2:34]}.flac"

    def get(self, file: Path, text: str, speak: Callable[[], Speech]) -> Speech:
        """Read a file of the cache, or speak and write it.

        Args:
            file: of the text and its voice.
            text: the sentence.
            speak: speaks it.
        """
        cached = self._read(file, text)
        if cached is not None:
            return cached
        speech = speak()
        self._write(file, speech)
        return speech

    def _read(self, file: Path, text: str) -> Speech | None:
        """The speech of a file; None: there is none, or it is damaged."""
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return speech_of_file(text, content)
        except (soundfile.LibsndfileError, ValueError):
            return None

    def _write(self, file: Path, speech: Speech) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.{os.getpid()}")
        soundfile.write(temporary, speech.samples, speech.sample_rate_hz, "PCM_16", format="FLAC")
        # A process that is killed meanwhile leaves no half of a file under its name.
        temporary.replace(file)


def size_of(folder: Path) -> tuple[int, int]:
    """Number of files and of bytes below a folder of the cache."""
    sizes = [file.stat().st_size for file in folder.rglob("*.flac")]
    return len(sizes), sum(sizes)
