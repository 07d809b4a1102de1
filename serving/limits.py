"""Limits of what a client may send, and the check of who may connect."""

import dataclasses
import hmac
import ipaddress
import time
from collections.abc import Callable, Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_COOKIE = "duplexmamba"
LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
MAX_CLOSE_REASON_CHARS = 100
"""The WebSocket protocol allows 123 bytes."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a server and of each of its conversations."""

    max_conversations: int
    """Concurrent conversations."""
    message_bytes: int = 65_536
    """Size of a message from a client."""
    max_ahead_s: float = 2.0
    """Seconds by which the received audio may be ahead of real time."""
    max_stall_s: float = 8.0
    """Seconds of audio that may arrive at once after the network has stalled; the page itself
    keeps as much."""
    min_message_s: float = 0.001
    """Duration that a message counts for at least, so that tiny messages are limited too. The
    smallest usual ones, an AudioWorklet's 128 samples at 48 kHz, last 0.0027 s."""
    max_backlog_s: float = 10.0
    """Seconds of audio that wait to be processed; beyond it the server is overloaded."""
    max_unsent_messages: int = 50
    """Messages that wait to be sent; beyond it the client is too slow."""
    hello_timeout_s: float = 5.0
    """Time for the first message of a client."""
    max_handshakes: int = 64
    """Connections that have not sent their first message yet."""
    idle_timeout_s: float = 20.0
    """Time without audio after which a conversation ends."""
    max_conversation_s: float = 900.0
    """Duration of a conversation."""
    max_heard_s: float = 8.0
    """Longest speech that is transcribed; of a longer stretch its end."""
    max_text_chars: int = 200
    """Length of a text for the synthesiser."""
    max_waiting_texts: int = 8
    """Texts that wait for the synthesiser or are being synthesised."""
    max_saved_conversations: int = 20
    """Closed conversations whose trace and audio can be downloaded; the newest are kept."""


class AudioRateLimit:
    """Limits received audio to real time, with a tolerance in both directions.

    Args:
        limits: `max_ahead_s`, `max_stall_s` and `min_message_s` apply.
        timer: current time in seconds.
    """

    def __init__(self, limits: Limits, timer: Callable[[], float] = time.monotonic):
        self.limits = limits
        self.timer = timer
        self.start_s = timer()
        self.received_s = 0.0

    def admits(self, duration_s: float) -> bool:
        """Count a message, and tell whether it is within the limit.

        Args:
            duration_s: duration of the audio in the message.
        """
        elapsed_s = self.timer() - self.start_s
        # Without this lower bound, a client could save up a long pause for one large burst.
        received_s = max(self.received_s, elapsed_s - self.limits.max_stall_s)
        self.received_s = received_s + max(duration_s, self.limits.min_message_s)
        return self.received_s <= elapsed_s + self.limits.max_ahead_s


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can connect to an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class AccessMiddleware:
    """ASGI middleware that admits requests from this server's own page and, if set, with the token.

    A page of another site can make a browser send requests to this server. It is recognised by its
    Origin header, or by a Host header that is not a name of this machine. The token is sent as
    `Authorization: Bearer`, or once as `?token=`, which sets a cookie.

    Args:
        app: the application.
        token: secret of the server; None: only loopback names are accepted as Host.
        origins: origins of other pages that may connect.
    """

    def __init__(self, app: ASGIApp, token: str | None = None, origins: Collection[str] = ()):
        self.app = app
        self.token = token
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with status 401 or 403."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        problem = self._problem(headers)
        if problem is not None:
            return await _refuse(403, problem, scope, receive, send)
        if self.token is None or self._is_valid(_token_of(headers)):
            return await self.app(scope, receive, _with_security_headers(send))
        query = parse_qs(scope["query_string"].decode("latin-1"))
        query_token = query.get("token", [""])[0]
        if scope["type"] == "http" and self._is_valid(query_token):
            # Without its leading slashes a path cannot redirect to another host.
            redirect = RedirectResponse("/" + scope["path"].lstrip("/\\"), 303)
            redirect.set_cookie(TOKEN_COOKIE, query_token, httponly=True, samesite="strict")
            return await redirect(scope, receive, send)
        remedy = "open the address with ?token=, or send Authorization: Bearer"
        await _refuse(401, remedy, scope, receive, send)

    def _problem(self, headers: Headers) -> str | None:
        """Message about the Host or Origin header, or None if both are accepted."""
        host = headers.get("host", "")
        if self.token is None and _hostname(host) not in LOOPBACK_NAMES:
            return f"Host: {host!r:.80} is not a name of this machine; use localhost"
        origin = headers.get("origin")
        if origin is None or origin in self.origins:
            return None
        if origin.partition("://")[2] != host:
            return f"Origin: {origin!r:.80} is another page; start with --origin to let it connect"
        return None

    def _is_valid(self, token: str) -> bool:
        # compare_digest takes the same time for every token, so timing does not reveal it.
        return self.token is not None and hmac.compare_digest(token.encode(), self.token.encode())


def _hostname(host: str) -> str | None:
    """A Host header without its port; None if it is malformed."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _token_of(headers: Headers) -> str:
    """The token in the Authorization header or the cookie; empty if there is none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(TOKEN_COOKIE)
    except CookieError:
        return ""
    return "" if cookie is None else cookie.value


def _with_security_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(SECURITY_HEADERS)
        await send(message)

    return send_with_headers


async def _refuse(status: int, reason: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with an error, or close a WebSocket before it is accepted."""
    if scope["type"] == "websocket":
        await receive()  # the connect request, which must be read before closing
        close = {
            "type": "websocket.close",
            "code": 1008,
            "reason": reason[:MAX_CLOSE_REASON_CHARS],
        }
        await send(close)
    else:
        await PlainTextResponse(reason + "\n", status)(scope, receive, send)
