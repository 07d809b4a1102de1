"""A server in a thread, on a port of its own, with a stand-in for a model."""

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from websockets.sync.client import ClientConnection, connect

from serving.conversations import decode_pcm
from serving.limits import Limits
from serving.web import bind, create_server
from tests.talker import LOW_HZ, Talker, tones

HELLO = {"version": 1, "rate_hz": 16_000}
FAST = Limits(max_conversations=4, max_ahead_s=600, max_backlog_s=600)
"""Limits that admit audio sent faster than real time."""
QUESTION = tones((0, 0.4), (LOW_HZ, 1), (0, 9))


@contextlib.contextmanager
def running_server(folder: Path, limits: Limits, session=None, **access) -> Iterator[str]:
    """The address, "host:port"."""
    folder.mkdir(exist_ok=True)
    with bind("127.0.0.1", 0) as bound:
        running = create_server(session or Talker(), "test-run", limits, folder, **access)
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
def connected(address: str, hello: object = HELLO, **options) -> Iterator[ClientConnection]:
    """A connection after its hello."""
    with connect(f"ws://{address}/talk", compression=None, **options) as socket:
        socket.send(json.dumps(hello))
        yield socket


def next_message(socket: ClientConnection, timeout: float = 20) -> dict:
    """The next message."""
    return json.loads(socket.recv(timeout))


def get(address, path, **headers):
    request = urllib.request.Request(f"http://{address}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.status, dict(answer.headers), answer.read()


def status_of(address, path, **headers):
    try:
        return get(address, path, **headers)[0]
    except urllib.error.HTTPError as error:
        return error.code


def converse(address, pcm, size=3200):
    """Send audio; return the first message, and one for every slice."""
    with connected(address) as socket:
        first = next_message(socket)
        for begin in range(0, len(pcm), size):
            socket.send(pcm[begin : begin + size].tobytes())
        return first, [next_message(socket) for _ in range(len(pcm) // 3200)]


def single_session_events(pcm):
    """Events of a single session without a server."""
    talker, events = Talker(), []
    for part in np.split(pcm, len(pcm) // 3200):
        try:
            next(talker.process_slice(decode_pcm(part.tobytes())))
        except StopIteration as done:
            event, talker.state = done.value
            events.append(event)
    return events


def eventually(succeeds, within_s=20):
    """Whether a predicate becomes true in time."""
    while within_s > 0 and not succeeds():
        time.sleep(0.05)
        within_s -= 0.05
    return within_s > 0
