"""Many conversations at once: they share one model, and the slices that are ready are stepped as one batch."""

import asyncio
import copy
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import torch

from duplexmamba.duplex.session import Event, Session, push_batched
from serving.limits import Limits, Pace
from serving.messages import Ended, happened
from serving.recording import BYTES, Recording

log = logging.getLogger(__name__)
FULL_SCALE = 2 ** (8 * BYTES - 1)


class Conversation:
    """One of many: bytes in, messages out."""

    def __init__(
        self, session: Session, recording: Recording, limits: Limits, on_slice: Callable[[], None]
    ):
        self.session, self.recording, self.limits, self.on_slice = (
            session,
            recording,
            limits,
            on_slice,
        )
        self.slices: deque[tuple[bytes, float]] = deque()
        """That wait to be heard, each with the time at which its last sample came."""
        self.messages: asyncio.Queue[str] = asyncio.Queue(limits.unsent)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pace, self._waiting = Pace(limits), b""

    def hear(self, pcm: bytes) -> None:
        """Samples, 16 bits each, little-endian. Raises Ended: no samples, too fast, or more than can be heard."""
        if not pcm or len(pcm) % BYTES:
            raise Ended(
                "audio",
                f"{len(pcm)} bytes are no samples: send 16-bit little-endian PCM, at least one sample",
            )
        if not self._pace.admits(len(pcm) / BYTES / self.session.rate_hz):
            raise Ended(
                "flood", "samples come faster than they are spoken: send a second of sound a second"
            )
        self.recording.hear(pcm)
        sound, size = self._waiting + pcm, BYTES * self.session.slice_samples
        full = len(sound) - len(sound) % size
        self.slices += [
            (sound[begin : begin + size], time.monotonic()) for begin in range(0, full, size)
        ]
        self._waiting = sound[full:]
        if len(self.slices) * self.session.slice_s > self.limits.behind_s:
            raise Ended("overloaded", "the server cannot follow; try again later")
        if self.slices:
            self.on_slice()

    def tell(self, result: Event | Exception, arrived_s: float) -> None:
        """What came of a slice. `ended` tells where the conversation cannot go on."""
        try:
            if isinstance(result, Exception):
                raise result
            self.recording.note(result)
            self.messages.put_nowait(happened(result, 1000 * (time.monotonic() - arrived_s)))
        except asyncio.QueueFull:
            self._end(Ended("slow", "events were not fetched: read what the server sends"))
        except Exception as error:  # the model's or the disk's: others go on
            log.error("a conversation ends: %r", error)
            self._end(Ended("failed", "something went wrong in the server; its log says what"))

    def _end(self, why: Ended) -> None:
        if not self.ended.done():
            self.ended.set_exception(why)


class Conversations:
    """All of a server.

    Args:
        session: nobody has said anything to it; each conversation has a copy.
        folder: for what was heard and said.
        run: what the model is called.
    """

    def __init__(self, session: Session, limits: Limits, folder: Path, run: str):
        self.session, self.limits, self.folder, self.run = session, limits, folder, run
        self.recordings: dict[str, Recording] = {}
        self._open: set[Conversation] = set()
        self._over: deque[Recording] = deque()
        self._ready = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, "model")

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def open(self) -> Iterator[Conversation]:
        """A new conversation, as long as there is room. Raises Ended: there is none."""
        if len(self._open) >= self.limits.conversations:
            raise Ended(
                "busy",
                f"busy: {len(self._open)} conversations are going on here; try again in a while",
            )
        session = copy.copy(self.session)
        recording = Recording(self.folder, self.run, session.slice_s, session.rate_hz)
        conversation = Conversation(session, recording, self.limits, self._ready.set)
        self._open.add(conversation)
        self.recordings[recording.name] = recording
        try:
            yield conversation
        finally:
            self._close(conversation)

    @asynccontextmanager
    async def stepping(self) -> AsyncIterator[None]:
        """While inside, slices are heard."""
        task = asyncio.create_task(self._step())
        try:
            yield
        finally:
            task.cancel()
            self._worker.shutdown()

    async def _step(self) -> None:
        while True:
            await self._ready.wait()
            self._ready.clear()
            await self._hear_ready()

    async def _hear_ready(self) -> None:
        """A slice of each conversation that has one."""
        ready = [
            (conversation, *conversation.slices.popleft())
            for conversation in self._open
            if conversation.slices
        ]
        if not ready:
            return
        self._ready.set()  # some may have more
        pairs = [(conversation.session, samples_of(pcm)) for conversation, pcm, _ in ready]
        results = await asyncio.get_running_loop().run_in_executor(self._worker, step, pairs)
        for (conversation, _, arrived_s), result in zip(ready, results, strict=True):
            if conversation in self._open:
                conversation.tell(result, arrived_s)

    def _close(self, conversation: Conversation) -> None:
        self._open.remove(conversation)
        conversation.ended.cancel()
        self._over.append(conversation.recording)
        while len(self._over) > self.limits.kept:
            oldest = self._over.popleft()
            del self.recordings[oldest.name]
            oldest.delete()
        conversation.recording.close()


def step(ready: Sequence[tuple[Session, torch.Tensor]]) -> list[Event | Exception]:
    """A slice of each, in one batch; where that fails each by itself, so that who fails does so alone."""
    try:
        return [*push_batched(*zip(*ready, strict=True))]
    except Exception as error:
        return [error] if len(ready) == 1 else [step([one])[0] for one in ready]


def samples_of(pcm: bytes) -> torch.Tensor:
    """(n,) in [-1, 1]."""
    return torch.from_numpy(np.frombuffer(pcm, "<i2").astype(np.float32) / FULL_SCALE)
