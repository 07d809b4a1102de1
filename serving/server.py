"""ASGI application of the page: audio arrives over a WebSocket, events are sent as they happen."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from datamodules.synthetic import out_of_grammar
from duplexmamba.duplex.session import Session
from serving import messages
from serving.clips import (
    CLIPS,
    EXAMPLES,
    MODEL_VOICE,
    USER_VOICE,
    Clip,
    clip_audio,
    has_synthesiser,
    sentence_audio,
)
from serving.conversations import Conversation, Conversations
from serving.limits import AccessMiddleware, Limits
from serving.messages import ConversationEnded
from serving.transcripts import Transcribe, Transcriber

PAGE_FOLDER = Path(__file__).with_name("page")
END_TIMEOUT_S = 1.0
"""Time for sending the last message to a client that may have stopped reading."""
MAX_BYTES_PER_CHAR = 4
"""UTF-8 uses at most four bytes for a character."""
Source = TypeVar("Source")
log = logging.getLogger(__name__)


class Server:
    """Handlers of the routes.

    Args:
        session: a new session; each conversation gets a copy.
        run: name of the model, for clients.
        limits: limits of the server.
        folder: directory for recordings.
        transcribe: see `Conversations`.
    """

    def __init__(
        self,
        session: Session,
        run: str,
        limits: Limits,
        folder: Path,
        transcribe: Transcribe = Transcriber,
    ):
        self.session = session
        self.run = run
        self.limits = limits
        self.conversations = Conversations(session, limits, folder, run, transcribe)
        self._clip_files: dict[str, bytes] = {}
        # One text at a time, so that the model keeps most of the processor.
        self._synthesiser_lock = asyncio.Lock()
        self._num_waiting_texts = 0
        self._num_handshakes = 0

    def routes(self) -> list[BaseRoute]:
        """All routes of the application."""
        return [
            Route("/about", self.about),
            Route("/clips/{name}.wav", self.clip),
            Route("/speak", self.speak, methods=["POST"]),
            WebSocketRoute("/talk", self.talk),
            Route("/conversations/{name}.{kind}", self.recording),
            Mount("/", StaticFiles(directory=PAGE_FOLDER, html=True)),
        ]

    async def about(self, request: Request) -> Response:
        """Answer with the JSON object that the page needs before a conversation."""
        fields = {
            "version": messages.VERSION,
            "run": self.run,
            "rate_hz": self.session.rate_hz,
            "slice_s": self.session.slice_s,
            "text_letters": self.limits.max_text_chars,
            "clips": _descriptions(CLIPS),
            "examples": _descriptions(EXAMPLES),
            "synthesiser": has_synthesiser(),
            "not_understood": out_of_grammar.ANSWER,
        }
        return JSONResponse(fields)

    async def clip(self, request: Request) -> Response:
        """Answer with a prepared clip as a WAV file."""
        name = request.path_params["name"]
        clips = {clip.name: clip for clip in (*CLIPS, *EXAMPLES)}
        if name not in clips:
            raise HTTPException(404, f"there is no clip {name!r:.40}")
        # Clips are synthesised when first requested, since the synthesiser is optional.
        if name not in self._clip_files:
            self._clip_files[name] = await self._synthesise(clip_audio, clips[name])
        return Response(self._clip_files[name], media_type="audio/wav")

    async def speak(self, request: Request) -> Response:
        """Answer with the text in the request's body as a WAV file.

        `?voice=model` selects the voice of the model instead of the user's.
        """
        voices = {"user": USER_VOICE, "model": MODEL_VOICE}
        voice = voices.get(request.query_params.get("voice", "user"))
        if voice is None:
            raise HTTPException(422, "voice is user or model")
        text = _single_line(await self._read_body(request))
        if not text or len(text) > self.limits.max_text_chars:
            raise HTTPException(422, f"send a text of 1 to {self.limits.max_text_chars} letters")
        speak = functools.partial(sentence_audio, voice=voice)
        audio = await self._synthesise(speak, text)
        return Response(audio, media_type="audio/wav")

    async def _read_body(self, request: Request) -> bytes:
        """Read a body up to the largest size that a valid text can have."""
        body = b""
        with contextlib.suppress(ClientDisconnect):
            # Not `request.body()`, which would read a body of any size.
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BYTES_PER_CHAR * self.limits.max_text_chars:
                    raise HTTPException(413, f"send at most {self.limits.max_text_chars} letters")
        return body

    async def recording(self, request: Request) -> Response:
        """Answer with the trace or the audio of a conversation, which may still be open."""
        # Names are looked up and never joined to a path, so that no other file can be read.
        recording = self.conversations.recordings.get(request.path_params["name"])
        if recording is None:
            raise HTTPException(404, "this conversation is not saved any more")
        paths = {"wav": recording.wav, "jsonl": recording.trace}
        path = paths.get(request.path_params["kind"])
        if path is None:
            raise HTTPException(404, "a conversation has a .jsonl and a .wav")
        return FileResponse(path, filename=path.name)

    async def talk(self, socket: WebSocket) -> None:
        """Run a conversation over a WebSocket."""
        await socket.accept()
        try:
            await self._converse(socket)
        except WebSocketDisconnect:
            pass  # the usual end: the client has closed the connection
        except ConversationEnded as end:
            await _send_end(socket, end)
        except Exception as error:
            log.exception("conversation failed: %r", error)
            await _send_end(socket, ConversationEnded("failed", messages.FAILED_MESSAGE))

    async def _converse(self, socket: WebSocket) -> None:
        """Run a conversation until `ConversationEnded` or `WebSocketDisconnect` is raised."""
        heard = await self._receive_hello(socket)
        with self.conversations.open(heard) as conversation:
            ready = messages.ready_message(
                conversation.recording.name,
                self.run,
                self.session.slice_s,
                self.session.rate_hz,
            )
            conversation.messages.put_nowait(ready)
            await _run_until_first_ends(
                self._receive_audio(socket, conversation),
                _send_messages(socket, conversation),
                conversation.ended,
            )

    async def _receive_hello(self, socket: WebSocket) -> messages.Heard:
        """Receive the first message.

        Returns:
            Which `heard` messages the client asks for.

        Raises:
            ConversationEnded: the message is late or wrong.
        """
        # Connections that never send a hello must not keep others out.
        if self._num_handshakes >= self.limits.max_handshakes:
            raise ConversationEnded(
                "busy", "busy: too many connections have sent no hello; try again later"
            )
        timeout_s = self.limits.hello_timeout_s
        late = ConversationEnded("hello", f"no hello within {timeout_s:g} s")
        self._num_handshakes += 1
        try:
            async with _time_limit(timeout_s, late):
                hello = await _receive(socket)
        finally:
            self._num_handshakes -= 1
        text = hello if isinstance(hello, str) else None
        return messages.check_hello(text, self.session.rate_hz)

    async def _receive_audio(self, socket: WebSocket, conversation: Conversation) -> None:
        """Receive audio until a time limit raises `ConversationEnded`."""
        limits = self.limits
        idle = ConversationEnded("idle", f"no audio arrived for {limits.idle_timeout_s:g} s")
        max_minutes = limits.max_conversation_s / 60
        too_long = ConversationEnded(
            "time", f"a conversation lasts up to {max_minutes:g} minutes; start another"
        )
        async with _time_limit(limits.max_conversation_s, too_long):
            while True:
                async with _time_limit(limits.idle_timeout_s, idle):
                    message = await _receive(socket)
                if isinstance(message, str):
                    raise ConversationEnded("audio", "expected binary audio, received a text")
                conversation.push_audio(message)

    async def _synthesise(self, function: Callable[[Source, int], bytes], source: Source) -> bytes:
        """Synthesise one WAV file at a time.

        Args:
            function: maps the source and the sample rate to the content of the file.
            source: a clip or a text.

        Raises:
            HTTPException: the synthesiser is missing or busy, or cannot pronounce the text.
        """
        if self._num_waiting_texts >= self.limits.max_waiting_texts:
            raise HTTPException(503, "busy: the synthesiser has other texts; try again later")
        self._num_waiting_texts += 1
        try:
            async with self._synthesiser_lock:
                return await run_in_threadpool(function, source, self.session.rate_hz)
        except ImportError as error:
            raise HTTPException(501, str(error)) from None
        except RuntimeError as error:
            raise HTTPException(422, str(error)) from None
        finally:
            self._num_waiting_texts -= 1


def _descriptions(clips: Sequence[Clip]) -> list[dict[str, str]]:
    """What the page shows of clips."""
    return [{"name": clip.name, "title": clip.title, "text": clip.text} for clip in clips]


def _single_line(body: bytes) -> str:
    """Decode a text, with control characters and line ends replaced by single spaces."""
    text = body.decode(errors="replace")
    visible = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(visible.split())


async def _receive(socket: WebSocket) -> str | bytes:
    """Receive a message; raises `WebSocketDisconnect`."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    text = message.get("text")
    return message["bytes"] if text is None else text


async def _send_messages(socket: WebSocket, conversation: Conversation) -> None:
    while True:
        await socket.send_text(await conversation.messages.get())


async def _send_end(socket: WebSocket, end: ConversationEnded) -> None:
    """Send the last message and close the socket, if the client is still connected."""
    with contextlib.suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
        async with asyncio.timeout(END_TIMEOUT_S):
            await socket.send_text(messages.end_message(end))
            await socket.close(end.code, end.reason)


async def _run_until_first_ends(*awaitables: Awaitable[None]) -> None:
    """Run awaitables until the first one ends, raise its error, and cancel the others."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        # Cancelled tasks must have ended before the conversation is closed.
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def _time_limit(seconds: float, end: ConversationEnded) -> AsyncIterator[None]:
    """Context that raises `end` if its body takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise end from None


def create_app(
    session: Session,
    run: str,
    limits: Limits,
    folder: Path,
    token: str | None = None,
    origins: Collection[str] = (),
    transcribe: Transcribe = Transcriber,
) -> Starlette:
    """Create the application.

    Args:
        session: a new session; each conversation gets a copy.
        run: name of the model, for clients.
        limits: limits of the server.
        folder: directory for traces and audio.
        token: see `AccessMiddleware`.
        origins: see `AccessMiddleware`.
        transcribe: see `Conversations`.
    """
    server = Server(session, run, limits, folder, transcribe)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with server.conversations.processing():
            yield

    return Starlette(
        routes=server.routes(),
        middleware=[Middleware(AccessMiddleware, token=token, origins=origins)],
        lifespan=lifespan,
    )
