"""Commands that run beside this process, or while it waits, and end no later than it does."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

from lightning_modules.trainer.sweep_trial import OF_AGENT, stoppable

OF_THIS_PROCESS = (*OF_AGENT, "WANDB_SERVICE")
"""Variables of this process alone: whose point of a sweep it is, and its W&B client's background process."""


@contextlib.contextmanager
def run_parallel(commands: Sequence[list[str]]) -> Iterator[None]:
    """Run them while it is open, their lines on this process's screen. What still runs when it closes gets SIGTERM, and
    time to write its checkpoint."""
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_env())
        for command in commands
    ]
    relays = [threading.Thread(target=_relay, args=(process,)) for process in started]
    for relay in relays:
        relay.start()
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process, relay in zip(started, relays, strict=True):
            process.wait()
            relay.join()


def run_to_end(command: list[str]) -> None:
    """Run it to its end. SIGTERM reaches it too; where it fails this process exits as it did."""
    with stoppable():
        process = subprocess.Popen(command, env=_env())
        try:
            process.wait()
        finally:
            process.terminate()
            process.wait()
    if process.returncode:
        sys.exit(process.returncode)


def _env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in OF_THIS_PROCESS}


def _relay(process: subprocess.Popen[str]) -> None:
    """Lines go through this process's own stdout, in which a bar makes way for them."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            print(line, end="", file=sys.stdout, flush=True)
