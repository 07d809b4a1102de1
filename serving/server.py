"""The page and its server: sound comes in over a WebSocket, what the model makes of it goes out as it happens."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from typing import TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from duplexmamba.duplex.session import Session
from serving import messages
from serving.clips import CLIPS, clip_audio, sentence_audio
from serving.conversations import Conversation, Conversations
from serving.limits import Guard, Limits
from serving.messages import Ended

PAGE = Path(__file__).with_name("page")
FAREWELL_S = 1.0
"""For the last message to somebody who may not be reading."""
T = TypeVar("T")
log = logging.getLogger(__name__)


class Server:
    """What is behind the routes. Arguments as in `app`."""

    def __init__(self, session: Session, run: str, limits: Limits, folder: Path):
        self.session, self.run, self.limits = session, run, limits
        self.conversations = Conversations(session, limits, folder, run)
        self._clips: dict[str, bytes] = {}
        self._speaking, self._texts, self._greeting = asyncio.Lock(), 0, 0

    async def about(self, request: Request) -> Response:
        """What the page says before anybody speaks."""
        clips = [{"name": clip.name, "title": clip.title, "text": clip.text} for clip in CLIPS]
        facts = {
            "version": messages.VERSION, "run": self.run, "rate_hz": self.session.rate_hz,
            "slice_s": self.session.slice_s, "text_letters": self.limits.text_letters, "clips": clips,
        }  # fmt: skip
        return JSONResponse(facts)

    async def clip(self, request: Request) -> Response:
        """A prepared clip as WAV."""
        name = request.path_params["name"]
        clip = next((clip for clip in CLIPS if clip.name == name), None)
        if clip is None:
            raise HTTPException(404, f"there is no clip {name!r:.40}")
        if name not in self._clips:
            self._clips[name] = await self._spoken(clip_audio, clip)
        return Response(self._clips[name], media_type="audio/wav")

    async def speak(self, request: Request) -> Response:
        """Any sentence as WAV: the body is its text."""
        body = b""
        with contextlib.suppress(ClientDisconnect):
            async for part in request.stream():
                body += part
                if len(body) > 4 * self.limits.text_letters:
                    raise HTTPException(
                        413, f"at most {self.limits.text_letters} letters at a time"
                    )
        text = " ".join(
            "".join(c if c.isprintable() else " " for c in body.decode(errors="replace")).split()
        )
        if not text or len(text) > self.limits.text_letters:
            raise HTTPException(422, f"give a text of 1 to {self.limits.text_letters} letters")
        return Response(await self._spoken(sentence_audio, text), media_type="audio/wav")

    async def recording(self, request: Request) -> Response:
        """The trace or the sound of a conversation, also while it goes on."""
        found = self.conversations.recordings.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404, "this conversation is not kept any more")
        path = {"wav": found.wav, "jsonl": found.trace}.get(request.path_params["kind"])
        if path is None:
            raise HTTPException(404, "a conversation has a .jsonl and a .wav")
        return FileResponse(path, filename=path.name)

    async def talk(self, socket: WebSocket) -> None:
        """A conversation."""
        await socket.accept()
        try:
            await self._converse(socket)
        except WebSocketDisconnect:
            pass
        except Ended as end:
            await _farewell(socket, end)
        except Exception as error:
            log.exception("a conversation ends: %r", error)
            await _farewell(
                socket, Ended("failed", "something went wrong in the server; its log says what")
            )

    async def _converse(self, socket: WebSocket) -> None:
        """Raises Ended or WebSocketDisconnect, sooner or later."""
        await self._greet(socket)
        with self.conversations.open() as conversation:
            facts = (
                conversation.recording.name,
                self.run,
                self.session.slice_s,
                self.session.rate_hz,
            )
            conversation.messages.put_nowait(messages.ready(*facts))
            await _first(
                self._hear(socket, conversation), _tell(socket, conversation), conversation.ended
            )

    async def _greet(self, socket: WebSocket) -> None:
        """Raises Ended: no hello comes, or not a right one."""
        if self._greeting >= self.limits.greeting:
            raise Ended("busy", "busy: too many connections say nothing; try again in a while")
        self._greeting += 1
        try:
            async with _within(
                self.limits.hello_s, Ended("hello", f"no hello within {self.limits.hello_s:g} s")
            ):
                hello = await _receive(socket)
        finally:
            self._greeting -= 1
        messages.check_hello(hello if isinstance(hello, str) else None, self.session.rate_hz)

    async def _hear(self, socket: WebSocket, conversation: Conversation) -> None:
        limits = self.limits
        idle = Ended("idle", f"nothing was heard for {limits.idle_s:g} s")
        long = Ended(
            "time",
            f"a conversation lasts up to {limits.conversation_s / 60:g} minutes; begin another",
        )
        async with _within(limits.conversation_s, long):
            while True:
                async with _within(limits.idle_s, idle):
                    sound = await _receive(socket)
                if isinstance(sound, str):
                    raise Ended("audio", "samples are due, in binary messages; this one is a text")
                conversation.hear(sound)

    async def _spoken(self, speak: Callable[[T, int], bytes], what: T) -> bytes:
        """A WAV file, one at a time. Raises HTTPException: the synthesiser is missing, busy, or does not know how."""
        if self._texts >= self.limits.waiting_texts:
            raise HTTPException(
                503, "busy: others are waiting for the synthesiser; try again in a moment"
            )
        self._texts += 1
        try:
            async with self._speaking:
                return await run_in_threadpool(speak, what, self.session.rate_hz)
        except ImportError as error:
            raise HTTPException(501, str(error)) from None
        except RuntimeError as error:
            raise HTTPException(422, str(error)) from None
        finally:
            self._texts -= 1


async def _receive(socket: WebSocket) -> str | bytes:
    """The next message. Raises WebSocketDisconnect."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    text = message.get("text")
    return message["bytes"] if text is None else text


async def _tell(socket: WebSocket, conversation: Conversation) -> None:
    while True:
        await socket.send_text(await conversation.messages.get())


async def _farewell(socket: WebSocket, end: Ended) -> None:
    with contextlib.suppress(TimeoutError, WebSocketDisconnect, RuntimeError):  # gone already
        async with asyncio.timeout(FAREWELL_S):
            await socket.send_text(messages.ended(end))
            await socket.close(end.code, end.reason)


async def _first(*works: Awaitable[None]) -> None:
    """Wait for one of them to end; the others are stopped."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def _within(seconds: float, end: Ended) -> AsyncIterator[None]:
    """Raises `end` where what is inside takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise end from None


def app(
    session: Session,
    run: str,
    limits: Limits,
    folder: Path,
    token: str | None = None,
    origins: Collection[str] = (),
) -> Starlette:
    """Everything that is served.

    Args:
        session: nobody has said anything to it.
        run: what the model is called.
        folder: for traces and sound.
        token, origins: as in `Guard`.
    """
    server = Server(session, run, limits, folder)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with server.conversations.stepping():
            yield

    routes = [
        Route("/about", server.about), Route("/clips/{name}.wav", server.clip),
        Route("/speak", server.speak, methods=["POST"]), WebSocketRoute("/talk", server.talk),
        Route("/conversations/{name}.{kind}", server.recording),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]  # fmt: skip
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=token, origins=origins)],
        lifespan=lifespan,
    )
