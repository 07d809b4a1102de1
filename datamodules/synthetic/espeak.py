"""Text to speech with espeak-ng, bit-identical for identical requests.

espeak-ng keeps oscillator and random state from one utterance to the next, so each utterance is
synthesised by a freshly forked child process. Forking a process that has loaded torch is slow and,
with other threads running, unsafe. Therefore this file is also run as a script: a small server
process that has loaded nothing but the library and forks once per request. That is why numpy and
espeakng_loader are imported inside functions only.

espeak-ng is GPL-3.0. It is used at run time only, through the pip package espeakng-loader (extra
`tts`). Needs `os.fork`: Linux or macOS.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import os
import signal
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

SAMPLE_RATE_HZ = 22_050
REQUEST = struct.Struct("<HIiii")
"""Number of bytes of the voice, number of bytes of the text, rate, pitch and pitch range.
The bytes of voice and text follow."""
REPLY = struct.Struct("<iii")
"""Failure code (0: none), number of words, number of samples.
The words follow, then the samples as int16."""
WORD = struct.Struct("<iii")
"""First sample, first character, number of characters."""
UNKNOWN_VOICE = 2
SYNTHESIS_FAILED = 3
PIPE_BYTES = 1 << 20
"""Size of the reply pipe. An utterance fits, so that the server need not wait for its reader."""


class Word(NamedTuple):
    """Start of a word in the audio, and its place in the text."""

    start_s: float
    position: int
    """Index of its first character in the text."""
    length: int
    """Number of characters."""


class Speech(NamedTuple):
    """Synthesised speech."""

    samples: np.ndarray
    """(n,) float32 in [-1, 1]."""
    sample_rate_hz: int
    words: list[Word]
    """In the order of the text."""


def speak(
    text: str, voice: str, rate_wpm: int = 175, pitch: int = 50, pitch_range: int = 50
) -> Speech:
    """Synthesise a sentence. Only one thread of a process may call this at a time.

    Args:
        text: the sentence.
        voice: identifier of an accent with an optional variant: `gmw/en-US+m1`.
        rate_wpm: words per minute, 80 to 450.
        pitch: 0 to 100.
        pitch_range: 0 (monotone) to 100.

    Raises:
        ImportError: espeakng-loader is missing.
        ValueError: espeak-ng does not know the voice.
        RuntimeError: espeak-ng failed; the message names voice and text.
    """
    import numpy as np

    try:
        server = _server(os.getpid())
        failure, words, pcm = _request(server, text, voice, rate_wpm, pitch, pitch_range)
    except BaseException as error:
        # After an interruption the server would answer the next request with this one's speech.
        _server.cache_clear()
        if isinstance(error, BrokenPipeError | struct.error):
            raise RuntimeError(
                f"espeak-ng ended unexpectedly while voice {voice!r} spoke {text!r}"
            ) from None
        raise
    _check_failure(failure, text, voice)
    samples = np.frombuffer(pcm, np.int16).astype(np.float32) / 32_768
    return Speech(samples, SAMPLE_RATE_HZ, _unpack_words(words))


def _check_failure(failure: int, text: str, voice: str) -> None:
    if failure == UNKNOWN_VOICE:
        raise ValueError(
            f"espeak-ng knows no voice {voice!r} (to speak {text!r}); "
            "give an identifier such as gmw/en-US+m1"
        )
    if failure:
        raise RuntimeError(
            f"espeak-ng could not speak {text!r} with voice {voice!r} (failure {failure})"
        )


def _unpack_words(packed: bytes) -> list[Word]:
    words = []
    for sample, position, length in WORD.iter_unpack(packed):
        words.append(Word(sample / SAMPLE_RATE_HZ, position, length))
    return words


def _request(
    server: subprocess.Popen[bytes], text: str, voice: str, *parameters: int
) -> tuple[int, bytes, bytes]:
    """Send one request; returns failure code, packed words and int16 samples."""
    assert server.stdin and server.stdout
    voice_bytes = voice.encode()
    text_bytes = text.encode()
    header = REQUEST.pack(len(voice_bytes), len(text_bytes), *parameters)
    os.write(server.stdin.fileno(), header + voice_bytes + text_bytes)

    failure, num_words, num_samples = REPLY.unpack(server.stdout.read(REPLY.size))
    words = server.stdout.read(WORD.size * num_words)
    pcm = server.stdout.read(2 * num_samples)
    return failure, words, pcm


@functools.lru_cache(maxsize=1)
def _server(pid: int) -> subprocess.Popen[bytes]:
    """Start the server of process `pid`, so that a forked worker does not share its parent's."""
    try:
        import espeakng_loader
    except ImportError:
        raise ImportError("synthetic speech needs espeak-ng: pip install -e '.[tts]'") from None
    library_path = espeakng_loader.get_library_path()
    data_path = espeakng_loader.get_data_path()
    server = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, library_path, data_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pipesize=PIPE_BYTES,
        # Ctrl-C is for the parent; the server ends when its stdin does.
        start_new_session=True,
    )
    atexit.register(_stop, server)
    return server


def _stop(server: subprocess.Popen[bytes]) -> None:
    # The context closes the pipes and waits. A worker that was forked meanwhile may keep the pipes
    # open, so the server does not see the end of its stdin and must be killed.
    with server:
        server.kill()


class _Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))
# Constants of speak_lib.h.
_SYNCHRONOUS = 2
_NO_EXIT = 0x8000
_UTF8 = 1
_BY_CHARACTER = 1
_WORD_EVENT = 1
_RATE = 1
_VOLUME = 2
_PITCH = 3
_PITCH_RANGE = 4
_VOLUME_PERCENT = 50
"""At 100 the loud voices clip."""


def _serve(library_path: str, data_path: str) -> None:
    """Process requests from stdin until it ends."""
    # Without this, a reader that was killed meanwhile would cause a traceback.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    library = ctypes.CDLL(library_path)
    rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, data_path.encode(), _NO_EXIT)
    if rate_hz != SAMPLE_RATE_HZ:
        sys.exit(f"espeak-ng does not start with the data in {data_path}")
    # Both calls read many small files at first use: once here rather than in every child.
    library.espeak_ListVoices(None)
    library.espeak_SetVoiceByName(b"gmw/en")
    gc.freeze()
    while header := sys.stdin.buffer.read(REQUEST.size):
        voice_size, text_size, *parameters = REQUEST.unpack(header)
        voice = sys.stdin.buffer.read(voice_size)
        text = sys.stdin.buffer.read(text_size)
        child = os.fork()
        if not child:
            os._exit(_synthesise(library, voice, text, parameters))
        _, status = os.waitpid(child, 0)
        failure = os.waitstatus_to_exitcode(status)
        # A child replies itself if it succeeds.
        if failure:
            os.write(1, REPLY.pack(failure, 0, 0))


def _synthesise(library: ctypes.CDLL, voice: bytes, text: bytes, parameters: list[int]) -> int:
    """Synthesise and write the reply to stdout; returns the failure code, 0 for none."""
    chunks: list[bytes] = []
    words: list[bytes] = []

    @_Callback
    def collect(samples, num_samples, events) -> int:
        if num_samples:
            chunks.append(ctypes.string_at(samples, 2 * num_samples))
        # An event of type 0 ends the array.
        i = 0
        while events[i].type:
            event = events[i]
            if event.type == _WORD_EVENT:
                # espeak-ng counts characters from 1.
                words.append(WORD.pack(event.sample, event.text_position - 1, event.length))
            i += 1
        return 0

    library.espeak_SetSynthCallback(collect)
    if library.espeak_SetVoiceByName(voice):
        return UNKNOWN_VOICE
    # Breath noise is drawn from this generator.
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    rate_wpm, pitch, pitch_range = parameters
    library.espeak_SetParameter(_RATE, rate_wpm, 0)
    library.espeak_SetParameter(_PITCH, pitch, 0)
    library.espeak_SetParameter(_PITCH_RANGE, pitch_range, 0)
    library.espeak_SetParameter(_VOLUME, _VOLUME_PERCENT, 0)
    size = ctypes.c_size_t(len(text) + 1)
    error = library.espeak_Synth(text, size, 0, _BY_CHARACTER, 0, _UTF8, None, None)
    if error or not chunks:
        return SYNTHESIS_FAILED
    pcm = b"".join(chunks)
    header = REPLY.pack(0, len(words), len(pcm) // 2)
    with os.fdopen(1, "wb") as stdout:
        stdout.write(header + b"".join(words) + pcm)
    return 0


if __name__ == "__main__":
    _serve(*sys.argv[1:])
