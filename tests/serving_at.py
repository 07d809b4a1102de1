"""A server in a thread, on a port of its own, with a stand-in for a model."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from websockets.sync.client import ClientConnection, connect

from serving.limits import Limits
from serving.web import listen, server
from tests.talker import Talker

HELLO = {"version": 1, "rate_hz": 16_000}


@contextlib.contextmanager
def serving(folder: Path, limits: Limits, session=None, **access) -> Iterator[str]:
    """The address, "host:port"."""
    folder.mkdir(exist_ok=True)
    with listen("127.0.0.1", 0) as bound:
        running = server(session or Talker(), "test-run", limits, folder, **access)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
        thread.start()
        while not running.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield f"127.0.0.1:{bound.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@contextlib.contextmanager
def talking(address: str, hello: object = HELLO, **options) -> Iterator[ClientConnection]:
    """A connection that has said hello."""
    with connect(f"ws://{address}/talk", compression=None, **options) as socket:
        socket.send(json.dumps(hello))
        yield socket


def told(socket: ClientConnection, timeout: float = 20) -> dict:
    """The next message."""
    return json.loads(socket.recv(timeout))
