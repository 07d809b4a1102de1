"""Text to speech through espeak-ng, bit for bit the same for the same request, whatever was spoken before.

espeak-ng carries its oscillators and its random state from one utterance to the next, so each utterance is spoken by a
freshly forked child. Forking a process that holds torch is slow and, with threads about, unsafe: this file therefore
runs a second time as a script, a small process that holds nothing but the library and forks once per request. For that
reason it imports numpy and espeakng_loader only inside functions.

espeak-ng is GPL-3.0. It is reached at run time alone, through the pip package espeakng-loader (extra `tts`).
Needs `os.fork`: Linux or macOS.
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
"""Bytes of the voice, bytes of the text, rate, pitch, pitch range; then voice and text."""
REPLY = struct.Struct("<iii")
"""0 or what failed, words, samples; then the words, then the samples as int16."""
WORD = struct.Struct("<iii")
"""First sample, first character, characters."""
UNKNOWN_VOICE, UNSPOKEN = 2, 3


class Word(NamedTuple):
    """Where a word begins."""

    start_s: float
    position: int
    """Index of its first character in the text."""
    length: int


class Speech(NamedTuple):
    """What espeak-ng said."""

    samples: np.ndarray
    """(n,) float32 in [-1, 1]."""
    sample_rate_hz: int
    words: list[Word]
    """In the order of the text."""


def speak(
    text: str, voice: str, rate_wpm: int = 175, pitch: int = 50, pitch_range: int = 50
) -> Speech:
    """Speak a sentence. One thread of a process at a time.

    Args:
        text: what to say.
        voice: identifier of an accent, and perhaps a variant: `gmw/en-US+m1`.
        rate_wpm: words a minute, 80 to 450.
        pitch: 0 to 100.
        pitch_range: 0 (monotone) to 100.

    Raises:
        ImportError: espeakng-loader is missing.
        ValueError: espeak-ng does not know the voice.
        RuntimeError: espeak-ng failed; the message names voice and text.
    """
    import numpy as np

    try:
        failed, words, pcm = _ask(_helper(os.getpid()), text, voice, rate_wpm, pitch, pitch_range)
    except BaseException as error:
        _helper.cache_clear()  # interrupted, it would answer the next request with this one's speech
        if isinstance(error, BrokenPipeError | struct.error):
            raise RuntimeError(
                f"espeak-ng ended unexpectedly before voice {voice!r} said {text!r}"
            ) from None
        raise
    if failed == UNKNOWN_VOICE:
        raise ValueError(
            f"espeak-ng knows no voice {voice!r} (to say {text!r}); give an identifier: gmw/en-US+m1"
        )
    if failed:
        raise RuntimeError(
            f"espeak-ng could not say {text!r} with voice {voice!r} (failure {failed})"
        )
    samples = np.frombuffer(pcm, np.int16).astype(np.float32) / 32_768
    heard = [Word(sample / SAMPLE_RATE_HZ, *where) for sample, *where in WORD.iter_unpack(words)]
    return Speech(samples, SAMPLE_RATE_HZ, heard)


def _ask(
    helper: subprocess.Popen[bytes], text: str, voice: str, *parameters: int
) -> tuple[int, bytes, bytes]:
    """0 or what failed, words, samples."""
    assert helper.stdin and helper.stdout
    said, name = text.encode(), voice.encode()
    os.write(helper.stdin.fileno(), REQUEST.pack(len(name), len(said), *parameters) + name + said)
    failed, num_words, num_samples = REPLY.unpack(helper.stdout.read(REPLY.size))
    return failed, helper.stdout.read(WORD.size * num_words), helper.stdout.read(2 * num_samples)


@functools.lru_cache(maxsize=1)
def _helper(pid: int) -> subprocess.Popen[bytes]:
    """This process's helper. `pid` keeps a forked worker from sharing its parent's."""
    try:
        import espeakng_loader
    except ImportError:
        raise ImportError("synthetic speech needs espeak-ng: pip install -e '.[tts]'") from None
    paths = [espeakng_loader.get_library_path(), espeakng_loader.get_data_path()]
    helper = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, *paths],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pipesize=1 << 20,  # an utterance fits, so that the helper need not wait for its reader
        start_new_session=True,  # Ctrl-C is for the parent; the helper ends when its stdin does
    )
    atexit.register(_end, helper)
    return helper


def _end(helper: subprocess.Popen[bytes]) -> None:
    with helper:  # closes the pipes and waits
        helper.kill()  # a worker forked meanwhile holds the pipes too, and would keep it waiting


class _Event(ctypes.Structure):
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
_SYNCHRONOUS, _NO_EXIT, _UTF8, _CHARACTERS, _WORD_EVENT = 2, 0x8000, 1, 1, 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_HEADROOM = 50
"""Volume in percent: at 100 the loud voices clip."""


def _serve(library_path: str, data_path: str) -> None:
    """Answer requests from stdin until it ends."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader killed meanwhile is no error
    library = ctypes.CDLL(library_path)
    if library.espeak_Initialize(_SYNCHRONOUS, 0, data_path.encode(), _NO_EXIT) != SAMPLE_RATE_HZ:
        sys.exit(f"espeak-ng does not start with the data in {data_path}")
    # Both are read from many small files at first use: once here rather than in every child.
    library.espeak_ListVoices(None)
    library.espeak_SetVoiceByName(b"gmw/en")
    gc.freeze()
    while header := sys.stdin.buffer.read(REQUEST.size):
        name_size, text_size, *parameters = REQUEST.unpack(header)
        voice, text = sys.stdin.buffer.read(name_size), sys.stdin.buffer.read(text_size)
        child = os.fork()
        if not child:
            os._exit(_say(library, voice, text, parameters))
        failed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if failed:  # a child replies only when all went well
            os.write(1, REPLY.pack(failed, 0, 0))


def _say(library: ctypes.CDLL, voice: bytes, text: bytes, parameters: list[int]) -> int:
    """Speak and write the reply to stdout; returns 0 or what failed."""
    pcm, words = [], []

    @_Callback
    def collect(samples, num_samples, events) -> int:
        if num_samples:
            pcm.append(ctypes.string_at(samples, 2 * num_samples))
        i = 0
        while events[i].type:
            if events[i].type == _WORD_EVENT:
                words.append(
                    WORD.pack(events[i].sample, events[i].text_position - 1, events[i].length)
                )
            i += 1
        return 0

    library.espeak_SetSynthCallback(collect)
    if library.espeak_SetVoiceByName(voice):
        return UNKNOWN_VOICE
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # breath is drawn from it
    for parameter, value in zip(
        (_RATE, _PITCH, _RANGE, _VOLUME), (*parameters, _HEADROOM), strict=True
    ):
        library.espeak_SetParameter(parameter, value, 0)
    size = ctypes.c_size_t(len(text) + 1)
    if library.espeak_Synth(text, size, 0, _CHARACTERS, 0, _UTF8, None, None) or not pcm:
        return UNSPOKEN
    sound = b"".join(pcm)
    with os.fdopen(1, "wb") as stdout:
        stdout.write(REPLY.pack(0, len(words), len(sound) // 2) + b"".join(words) + sound)
    return 0


if __name__ == "__main__":
    _serve(*sys.argv[1:])
