"""Audio and events of a conversation as files that the timeline plot can open."""

import contextlib
import secrets
import time
import wave
from pathlib import Path

from duplexmamba.duplex.events import Event
from serving.trace import TraceHeader, TraceWriter

BYTES_PER_SAMPLE = 2
"""Signed, little-endian."""


class Recording:
    """Writes a conversation to <name>.wav and <name>.jsonl.

    Args:
        folder: directory of the files.
        run: name of the model.
        slice_s: duration of a slice in seconds.
        rate_hz: sample rate of the audio.
    """

    def __init__(self, folder: Path, run: str, slice_s: float, rate_hz: int):
        # The random part makes the name a secret: whoever knows it can download the files.
        self.name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(8)}"
        self.wav = folder / f"{self.name}.wav"
        self.trace = folder / f"{self.name}.jsonl"
        self._events = TraceWriter(self.trace, TraceHeader(run, slice_s, self.wav.name))
        self._file = self.wav.open("wb")
        self._audio = wave.Wave_write(self._file)
        self._audio.setparams((1, BYTES_PER_SAMPLE, rate_hz, 0, "NONE", ""))

    def write_audio(self, pcm: bytes) -> None:
        """Append samples; the file is a valid WAV file after every call."""
        self._audio.writeframes(pcm)
        self._file.flush()

    def write_event(self, event: Event) -> None:
        """Append the event of a slice."""
        self._events.write(event)

    def close(self) -> None:
        """Close both files."""
        # Wave_write does not close a file that it was given.
        with contextlib.closing(self._events), self._file:
            self._audio.close()

    def delete(self) -> None:
        """Delete both files."""
        # They may be missing if someone has emptied the temporary folder.
        for path in (self.wav, self.trace):
            path.unlink(missing_ok=True)
