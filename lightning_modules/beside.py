"""Commands that run beside this one: their lines appear on its screen, and they end no later than it does."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

from lightning_modules.point import OF_AGENT

OF_THIS_PROCESS = (*OF_AGENT, "WANDB_SERVICE")
"""Variables of this process alone: whose point of a sweep it is, and its W&B client's background process."""


@contextlib.contextmanager
def beside(commands: Sequence[list[str]]) -> Iterator[None]:
    """Run them while it is open. What still runs when it closes gets SIGTERM, and time to write its checkpoint."""
    env = {name: value for name, value in os.environ.items() if name not in OF_THIS_PROCESS}
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for command in commands]
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


def _relay(process: subprocess.Popen[str]) -> None:
    """Lines go through this process's own stdout, in which a bar makes way for them."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            print(line, end="", file=sys.stdout, flush=True)
