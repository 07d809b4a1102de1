"""Run the server on an address until it is stopped."""

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
from serving.server import create_app
from serving.transcripts import Transcribe, Transcriber

PING_S = 10.0
"""Interval between pings on a WebSocket, and the time limit of the answer to one."""
REQUEST_TIMEOUT_S = 10.0
"""Time that a new connection may take to send a request."""
MAX_EXTRA_CONNECTIONS = 512
"""Concurrent connections in addition to those of conversations."""
SHUTDOWN_TIMEOUT_S = 2
TOKEN_BYTES = 16


class TimedH11Protocol(H11Protocol):
    """HTTP protocol that closes connections on which no request arrives in time."""

    def connection_made(self, transport: BaseTransport) -> None:  # type: ignore[override]
        """Start the time limit of a new connection."""
        super().connection_made(transport)  # type: ignore[arg-type]
        asyncio.get_running_loop().call_later(REQUEST_TIMEOUT_S, self._close_if_unused)

    def _close_if_unused(self) -> None:
        # A WebSocket replaces the protocol of its transport, and must stay open.
        is_http = self.transport.get_protocol() is self
        if self.cycle is None and is_http:
            self.transport.close()


def bind(host: str, port: int) -> socket.socket:
    """Bind an address.

    Args:
        host: name or address.
        port: 0 for any free port.

    Raises:
        ValueError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"HOST={host} PORT={port}: {error}; choose another, as in PORT=8766"
        ) from None


def create_server(
    session: Session,
    run: str,
    limits: Limits,
    folder: Path,
    token: str | None = None,
    origins: Collection[str] = (),
    transcribe: Transcribe = Transcriber,
) -> uvicorn.Server:
    """Create the server. Arguments as in `create_app`."""
    config = uvicorn.Config(
        create_app(session, run, limits, folder, token, origins, transcribe),
        http=TimedH11Protocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws_max_size=limits.message_bytes,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
        limit_concurrency=limits.max_conversations + MAX_EXTRA_CONNECTIONS,
    )
    return uvicorn.Server(config)


def serve_page(
    session: Session,
    run: str,
    limits: Limits,
    host: str,
    port: int,
    token: str | None,
    origins: Collection[str],
) -> None:
    """Print the address of the page and serve it until Ctrl-C.

    Args:
        session: a new session; each conversation gets a copy.
        run: name of the model, for clients.
        limits: limits of the server.
        host: name or address.
        port: port of the page.
        token: see `AccessMiddleware`; None creates one if other machines can reach the address.
        origins: see `AccessMiddleware`.

    Raises:
        ValueError: the address cannot be bound.
    """
    if token is None and not is_loopback(host):
        # Anyone in the network could use the model otherwise.
        token = secrets.token_urlsafe(TOKEN_BYTES)
    with (
        bind(host, port) as bound_socket,
        tempfile.TemporaryDirectory(prefix="conversations-") as folder,
    ):
        # The chosen port if `port` is 0.
        bound_port = bound_socket.getsockname()[1]
        print(page_address(host, bound_port, token), flush=True)
        server = create_server(session, run, limits, Path(folder), token, origins)
        server.run(sockets=[bound_socket])


def page_address(host: str, port: int, token: str | None) -> str:
    """URL of the page, which includes the token if there is one."""
    if is_loopback(host):
        name = "localhost"
    elif ":" in host:
        name = f"[{host}]"
    else:
        name = host
    query = "" if token is None else f"?token={token}"
    return f"http://{name}:{port}/{query}"
