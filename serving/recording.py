"""What was heard and what happened, as files that the timeline viewer opens: of the newest conversations only."""

import contextlib
import secrets
import time
import wave
from pathlib import Path

from duplexmamba.duplex.session import Event
from serving.trace import Header, Writer

BYTES = 2
"""Of a sample: signed, little-endian."""


class Recording:
    """A conversation that is being written to <name>.wav and <name>.jsonl."""

    def __init__(self, folder: Path, run: str, slice_s: float, rate_hz: int):
        self.name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(8)}"
        self.wav, self.trace = (folder / f"{self.name}.{kind}" for kind in ("wav", "jsonl"))
        self._events = Writer(self.trace, Header(run, slice_s, self.wav.name))
        self._file = self.wav.open("wb")
        self._sound = wave.Wave_write(self._file)
        self._sound.setparams((1, BYTES, rate_hz, 0, "NONE", ""))

    def hear(self, pcm: bytes) -> None:
        """(n,) samples as bytes; the file's header is true after every call."""
        self._sound.writeframes(pcm)
        self._file.flush()

    def note(self, event: Event) -> None:
        """What happened in a slice."""
        self._events.write(event)

    def close(self) -> None:
        """Nothing more comes."""
        with contextlib.closing(self._events), self._file:
            self._sound.close()

    def delete(self) -> None:
        """The files too."""
        for path in (self.wav, self.trace):
            path.unlink(missing_ok=True)
