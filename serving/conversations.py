"""Concurrent conversations: all share one model, and slices that are complete are one batch."""

import asyncio
import contextlib
import copy
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from duplexmamba.duplex.events import Event
from duplexmamba.duplex.session import Session, push_batched
from serving.limits import AudioRateLimit, Limits
from serving.messages import (
    FAILED_MESSAGE,
    ConversationEnded,
    Heard,
    heard_message,
    slice_message,
)
from serving.recording import BYTES_PER_SAMPLE, Recording
from serving.transcripts import LIVE_S, StretchFinder, Transcribe, Transcriber, Transcription

log = logging.getLogger(__name__)
FULL_SCALE = 2 ** (8 * BYTES_PER_SAMPLE - 1)
MAX_TRANSCRIPTIONS = 2
"""Transcripts of a conversation in the making; a machine that has more to do is too slow for them."""


class PendingSlice(NamedTuple):
    """A slice of audio that waits to be processed."""

    pcm: bytes
    arrival_s: float
    """Time at which its last sample arrived, by `time.monotonic`."""


class Conversation:
    """One client's conversation: audio bytes in, messages out.

    Args:
        session: a session of its own.
        recording: receives the audio and the events.
        limits: limits of the server.
        on_slice: called whenever a complete slice is pending.
        heard: which `heard` messages the client wants.
        transcribe: makes the transcripts in them.
    """

    def __init__(
        self,
        session: Session,
        recording: Recording,
        limits: Limits,
        on_slice: Callable[[], None],
        heard: Heard = "no",
        transcribe: Transcribe = Transcriber,
    ):
        self.session = session
        self.recording = recording
        self.limits = limits
        self.on_slice = on_slice
        self.pending_slices: deque[PendingSlice] = deque()
        self.transcriptions: deque[Transcription] = deque()
        """Transcripts in the making, oldest first; they have no hurry."""
        self.messages: asyncio.Queue[str] = asyncio.Queue(limits.max_unsent_messages)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Raises `ConversationEnded` when the conversation cannot continue."""
        self._rate_limit = AudioRateLimit(limits)
        self._heard = heard
        self._transcribe = transcribe
        self._stretches = StretchFinder(session.slice_s)
        # The latest slices that were processed, of which a transcript can be made.
        num_kept = math.ceil(limits.max_heard_s / session.slice_s)
        self._processed_pcm: deque[bytes] = deque(maxlen=num_kept)
        self._latest_slice = -1
        # Less than a slice; the session itself only receives whole slices.
        self._pending_pcm = b""

    def push_audio(self, pcm: bytes) -> None:
        """Receive audio.

        Args:
            pcm: 16-bit little-endian samples, any positive number of them.

        Raises:
            ConversationEnded: the bytes are not whole samples, the audio arrives too fast, or too
                much audio is pending.
        """
        if not pcm or len(pcm) % BYTES_PER_SAMPLE:
            raise ConversationEnded(
                "audio",
                f"{len(pcm)} bytes are not whole samples: send 16-bit little-endian PCM, "
                "at least one sample",
            )
        duration_s = len(pcm) / BYTES_PER_SAMPLE / self.session.rate_hz
        if not self._rate_limit.admits(duration_s):
            raise ConversationEnded(
                "flood",
                "samples arrive faster than real time: send one second of audio per second",
            )
        self.recording.write_audio(pcm)
        self._split_into_slices(pcm)
        if len(self.pending_slices) * self.session.slice_s > self.limits.max_backlog_s:
            raise ConversationEnded("overloaded", "the server is too slow now; try again later")
        # An earlier slice may still be pending, in which case this call changes nothing.
        if self.pending_slices:
            self.on_slice()

    def _split_into_slices(self, pcm: bytes) -> None:
        """Append audio to the pending bytes and move complete slices to `pending_slices`."""
        stream = self._pending_pcm + pcm
        slice_bytes = BYTES_PER_SAMPLE * self.session.slice_samples
        num_full_bytes = len(stream) - len(stream) % slice_bytes
        for start in range(0, num_full_bytes, slice_bytes):
            slice_pcm = stream[start : start + slice_bytes]
            self.pending_slices.append(PendingSlice(slice_pcm, time.monotonic()))
        self._pending_pcm = stream[num_full_bytes:]

    def next_slice(self) -> PendingSlice:
        """Take the oldest pending slice, to process it."""
        pending = self.pending_slices.popleft()
        self._processed_pcm.append(pending.pcm)
        return pending

    def publish(self, result: Event | Exception, arrival_s: float) -> None:
        """Record the result of a slice and queue its message.

        An error, also one while recording, ends the conversation through `ended`.

        Args:
            result: the event, or the error that processing the slice raised.
            arrival_s: time at which the last sample of the slice arrived, by `time.monotonic`.
        """
        try:
            if isinstance(result, Exception):
                raise result
            self.recording.write_event(result)
            latency_ms = 1000 * (time.monotonic() - arrival_s)
            # Waiting for space would let one slow client delay all others.
            self.messages.put_nowait(slice_message(result, latency_ms))
            if self._heard != "no":
                self._follow_speech(result)
        except asyncio.QueueFull:
            self._end(ConversationEnded("slow", "events were not fetched: read all messages"))
        except Exception as error:  # of the model or the disk: other conversations continue
            log.error("conversation failed: %r", error)
            self._end(ConversationEnded("failed", FAILED_MESSAGE))

    def publish_transcript(self, transcription: Transcription) -> None:
        """Queue the message with a transcript as far as it has been made.

        Clients that want no live text get it when it is complete.
        """
        if transcription.complete:
            self.transcriptions.remove(transcription)
        elif self._heard != "live":
            return
        stretch = transcription.stretch
        end_slice = self._latest_slice if stretch is None else stretch.end_slice
        message = heard_message(transcription, end_slice, self.session.slice_s)
        # A client that does not read is disconnected by `publish`; this message can be missed.
        with contextlib.suppress(asyncio.QueueFull):
            self.messages.put_nowait(message)

    def _follow_speech(self, event: Event) -> None:
        """Begin, continue or end the transcript of the speech that the latest slice belongs to."""
        self._latest_slice = event.slice
        current = self._current_transcription
        if current is not None:
            current.push(decode_pcm(self._processed_pcm[-1]))
        stretch = self._stretches.push(event)
        start_slice = self._stretches.start_slice
        if stretch is not None:
            current = current or self._start_transcription(stretch.start_slice)
            current.stretch = stretch
            # The decision is known now, and its transcript later.
            self.publish_transcript(current)
        elif start_slice is not None and current is None and self._heard == "live":
            self._start_transcription(start_slice)

    @property
    def _current_transcription(self) -> Transcription | None:
        """That of speech without a decision yet."""
        if self.transcriptions and self.transcriptions[-1].stretch is None:
            return self.transcriptions[-1]
        return None

    def _start_transcription(self, start_slice: int) -> Transcription:
        """Begin the transcript of speech that goes up to the latest slice."""
        if len(self.transcriptions) == MAX_TRANSCRIPTIONS:
            # Rather without a text than ever later.
            self.transcriptions[0].complete = True
            self.publish_transcript(self.transcriptions[0])
        transcriber = self._transcribe(self.session, self.limits.max_heard_s)
        round_slices = math.ceil(LIVE_S / self.session.slice_s)
        transcription = Transcription(transcriber, start_slice, round_slices)
        num_slices = self._latest_slice + 1 - start_slice
        for pcm in list(self._processed_pcm)[-num_slices:]:
            transcription.push(decode_pcm(pcm))
        self.transcriptions.append(transcription)
        return transcription

    def _end(self, reason: ConversationEnded) -> None:
        if not self.ended.done():
            self.ended.set_exception(reason)


class Conversations:
    """All conversations of a server.

    Args:
        session: a new session; each conversation gets a copy.
        limits: limits of the server.
        folder: directory for recordings.
        run: name of the model, for clients.
        transcribe: makes the transcripts of conversations that ask for them.
    """

    def __init__(
        self,
        session: Session,
        limits: Limits,
        folder: Path,
        run: str,
        transcribe: Transcribe = Transcriber,
    ):
        self.session = session
        self.limits = limits
        self.folder = folder
        self.run = run
        self.transcribe = transcribe
        self.recordings: dict[str, Recording] = {}
        """By name: of the open conversations and of the newest closed ones."""
        self._open: set[Conversation] = set()
        self._closed_recordings: deque[Recording] = deque()
        self._work_ready = asyncio.Event()
        # The event loop must stay responsive, so the model runs in a thread of its own.
        self._model_thread = ThreadPoolExecutor(1, "model")

    def __len__(self) -> int:
        return len(self._open)

    @contextlib.contextmanager
    def open(self, heard: Heard = "no") -> Iterator[Conversation]:
        """Context of a new conversation.

        Args:
            heard: which `heard` messages the client wants.

        Raises:
            ConversationEnded: the limit of concurrent conversations is reached.
        """
        if len(self._open) >= self.limits.max_conversations:
            raise ConversationEnded(
                "busy",
                f"busy: {len(self._open)} of {self.limits.max_conversations} conversations are "
                "active; try again later",
            )
        # A copy shares the model and has its own state.
        session = copy.copy(self.session)
        recording = Recording(self.folder, self.run, session.slice_s, session.rate_hz)
        conversation = Conversation(
            session, recording, self.limits, self._work_ready.set, heard, self.transcribe
        )
        self._open.add(conversation)
        self.recordings[recording.name] = recording
        try:
            yield conversation
        finally:
            self._close(conversation)

    @contextlib.asynccontextmanager
    async def processing(self) -> AsyncIterator[None]:
        """Context in which pending slices are processed."""
        task = asyncio.create_task(self._process_forever())
        try:
            yield
        finally:
            task.cancel()
            # A slice that is being processed cannot be cancelled: wait for it.
            self._model_thread.shutdown()

    async def _process_forever(self) -> None:
        while True:
            await self._work_ready.wait()
            # Cleared before, not after, or slices that arrive meanwhile would be missed.
            self._work_ready.clear()
            await self._process_ready()
            # Slices come first: a transcript delays them by one of its short steps at most.
            if not any(conversation.pending_slices for conversation in self._open):
                await self._continue_transcription()

    async def _process_ready(self) -> None:
        """Process one slice of each conversation that has a pending one, as one batch."""
        conversations = [c for c in self._open if c.pending_slices]
        if not conversations:
            return
        slices = [conversation.next_slice() for conversation in conversations]
        self._work_ready.set()  # some conversations may have further slices
        inputs = [
            (conversation.session, decode_pcm(pending.pcm))
            for conversation, pending in zip(conversations, slices, strict=True)
        ]
        loop = asyncio.get_running_loop()
        results = await loop.run_in_executor(self._model_thread, process_slices, inputs)
        for conversation, pending, result in zip(conversations, slices, results, strict=True):
            # It may have been closed while its slice was processed.
            if conversation in self._open:
                conversation.publish(result, pending.arrival_s)

    async def _continue_transcription(self) -> None:
        """Do one step of one transcript, if a conversation waits for any."""
        waiting = ((c, t) for c in self._open for t in c.transcriptions if t.has_work)
        conversation, transcription = next(waiting, (None, None))
        if conversation is None or transcription is None:
            return
        self._work_ready.set()  # there may be further steps
        loop = asyncio.get_running_loop()
        try:
            step = transcription.next_step()
            ends_round = await loop.run_in_executor(self._model_thread, step)
        except Exception as error:  # the conversation does not depend on its transcripts
            log.error("no transcript: %r", error)
            ends_round = transcription.give_up()
        if ends_round and conversation in self._open:
            conversation.publish_transcript(transcription)

    def _close(self, conversation: Conversation) -> None:
        """Close a conversation and delete the oldest recordings beyond the limit."""
        # Results of a slice that is being processed are not published any more.
        self._open.remove(conversation)
        conversation.ended.cancel()
        self._closed_recordings.append(conversation.recording)
        while len(self._closed_recordings) > self.limits.max_saved_conversations:
            oldest = self._closed_recordings.popleft()
            del self.recordings[oldest.name]
            oldest.delete()
        conversation.recording.close()


def process_slices(inputs: Sequence[tuple[Session, torch.Tensor]]) -> list[Event | Exception]:
    """Process a slice of each session as one batch.

    If the batch fails, each session is processed separately, so that only those that cause the
    error are affected.

    Returns:
        For each session its event, or the error that it raised.
    """
    sessions = [session for session, _ in inputs]
    slices = [samples for _, samples in inputs]
    try:
        return [*push_batched(sessions, slices)]
    except Exception as error:
        if len(inputs) == 1:
            return [error]
        results: list[Event | Exception] = []
        for single_input in inputs:
            results += process_slices([single_input])
        return results


def decode_pcm(pcm: bytes) -> torch.Tensor:
    """16-bit little-endian samples -> (n,) float32 in [-1, 1]."""
    return torch.from_numpy(np.frombuffer(pcm, "<i2").astype(np.float32) / FULL_SCALE)
