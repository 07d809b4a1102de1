"""The server on its address, until it is told to stop."""

import asyncio
import secrets
import socket
import tempfile
from asyncio.transports import BaseTransport
from collections.abc import Collection
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from duplexmamba.duplex.session import Session
from serving.limits import Limits, is_loopback
from serving.server import app

PING_S = 10.0
"""Between signs of life on a socket, and how long one is waited for."""
REQUEST_S = 10.0
"""How long a connection may take to ask for something."""
CONNECTIONS = 512
"""That are served at once, besides those of conversations."""


class Prompt(H11Protocol):
    """HTTP with clients that say what they want."""

    def connection_made(self, transport: BaseTransport) -> None:  # type: ignore[override]
        """Whoever asks for nothing is hung up on."""
        super().connection_made(transport)  # type: ignore[arg-type]
        asyncio.get_running_loop().call_later(REQUEST_S, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None and self.transport.get_protocol() is self:
            self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """The address taken. Raises ValueError: it cannot be."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"HOST={host} PORT={port}: {error}; choose another, as in PORT=8766"
        ) from None


def server(
    session: Session,
    run: str,
    limits: Limits,
    folder: Path,
    token: str | None = None,
    origins: Collection[str] = (),
) -> uvicorn.Server:
    """Arguments as in `app`."""
    config = uvicorn.Config(
        app(session, run, limits, folder, token, origins), http=Prompt, log_level="warning", access_log=False,
        server_header=False, ws_max_size=limits.message_bytes, ws_ping_interval=PING_S, ws_ping_timeout=PING_S,
        ws_per_message_deflate=False, timeout_graceful_shutdown=2, limit_concurrency=limits.conversations + CONNECTIONS,
    )  # fmt: skip
    return uvicorn.Server(config)


def serve(
    session: Session,
    run: str,
    limits: Limits,
    host: str,
    port: int,
    token: str | None,
    origins: Collection[str],
) -> None:
    """Serve the page until Ctrl-C. An address that others reach gets a token, if none is given.

    Raises:
        ValueError: the address cannot be taken.
    """
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(16)
    with (
        listen(host, port) as bound,
        tempfile.TemporaryDirectory(prefix="conversations-") as folder,
    ):
        name = "localhost" if is_loopback(host) else f"[{host}]" if ":" in host else host
        query = "" if token is None else f"?token={token}"
        print(f"http://{name}:{bound.getsockname()[1]}/{query}", flush=True)
        server(session, run, limits, Path(folder), token, origins).run(sockets=[bound])
