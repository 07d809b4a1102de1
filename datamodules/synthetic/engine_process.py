"""A process that has loaded a synthesiser and speaks one text after another.

For engines that take long to load, keep state, or are under another licence. The engine's module is
run as a program, `python -m datamodules.synthetic.pico`, and calls `serve`; `EngineProcess` is the
other end of its pipes.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
"""Folder from which the program can import `datamodules`."""


class Pcm(NamedTuple):
    """Sound as an engine gives it."""

    rate_hz: int
    content: bytes
    """int16 samples of one channel."""


class EngineProcess:
    """The process of one engine, started with the first request.

    Only one thread may use it at a time. A forked worker starts its own, since two users of one
    pipe would read each other's replies.

    Args:
        module: program that calls `serve`.
        arguments: its arguments.
        environment: environment variables to add.
    """

    def __init__(
        self,
        module: str,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.module = module
        self.arguments = arguments
        self.environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def speak(self, request: Mapping[str, Any]) -> Pcm:
        """Send one request and wait for its sound.

        Args:
            request: what the engine's function gets; must fit JSON.

        Raises:
            RuntimeError: the engine failed, or has ended; the message holds the request.
        """
        try:
            reply, content = self._exchange(json.dumps(request).encode() + b"\n")
        except BaseException as error:
            # After an interruption the process would answer the next request with this sound.
            self._stop()
            if isinstance(error, BrokenPipeError | json.JSONDecodeError):
                raise RuntimeError(f"{self.module} ended unexpectedly at {dict(request)}") from None
            raise
        if reply["error"]:
            raise RuntimeError(f"{self.module} could not speak {dict(request)}: {reply['error']}")
        return Pcm(reply["rate_hz"], content)

    def _exchange(self, line: bytes) -> tuple[dict[str, Any], bytes]:
        process = self._started()
        assert process.stdin and process.stdout
        process.stdin.write(line)
        process.stdin.flush()
        reply = json.loads(process.stdout.readline())
        return reply, process.stdout.read(reply["num_bytes"])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner == os.getpid():
            return self._process
        paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            **self.environment,
            # Data workers share the cores; and a process that forks must have no other threads.
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.module, *self.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            # Ctrl-C is for the parent; the program ends when its stdin does.
            start_new_session=True,
        )
        self._owner = os.getpid()
        atexit.register(self._stop)
        return self._process

    def _stop(self) -> None:
        if self._process is None or self._owner != os.getpid():
            return
        # A worker that was forked meanwhile may keep the pipes open, so that the program does not
        # see the end of its stdin and must be killed.
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self._process = None
        atexit.unregister(self._stop)


def serve(speak: Callable[[dict[str, Any]], Pcm], in_child: bool = False) -> None:
    """Answer requests from stdin until it ends.

    Args:
        speak: from a request to its sound; may raise, which the requester gets as a sentence.
        in_child: speak each text in a freshly forked child, for an engine that a request changes.
    """
    for line in sys.stdin.buffer:
        if not in_child:
            _answer(speak, line)
            continue
        child = os.fork()
        if not child:
            _answer(speak, line)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        # A child that was killed has not answered.
        if status:
            _reply(Pcm(0, b""), f"ended with {os.waitstatus_to_exitcode(status)}")


def _answer(speak: Callable[[dict[str, Any]], Pcm], line: bytes) -> None:
    try:
        sound = speak(json.loads(line))
    except Exception as failure:
        _reply(Pcm(0, b""), f"{type(failure).__name__}: {failure}")
    else:
        _reply(sound, "")


def _reply(sound: Pcm, error: str) -> None:
    header = {"rate_hz": sound.rate_hz, "num_bytes": len(sound.content), "error": error}
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + sound.content)
    # Flushed, since the requester waits for it before it sends more.
    sys.stdout.buffer.flush()
