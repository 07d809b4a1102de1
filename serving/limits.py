"""What a client may do: how much, how fast, how long; and who may be one at all."""

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

COOKIE = "duplexmamba"
LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of a server and of each conversation."""

    conversations: int
    """At once."""
    message_bytes: int = 65_536
    ahead_s: float = 2.0
    """By how much samples may have come faster than time passes."""
    message_s: float = 0.005
    """What the shortest message counts for, in time."""
    behind_s: float = 5.0
    """Of samples that wait to be heard; with more the server is too slow."""
    unsent: int = 50
    """Messages that wait to be sent; with more the client is too slow."""
    hello_s: float = 5.0
    greeting: int = 64
    """Connections of which a hello is waited for."""
    idle_s: float = 20.0
    """Without a sample."""
    conversation_s: float = 900.0
    """A conversation lasts no longer."""
    text_letters: int = 200
    """To be spoken by the synthesiser."""
    waiting_texts: int = 8
    kept: int = 20
    """Conversations whose trace and sound can be fetched once they are over, the newest."""


class Pace:
    """Samples that come as time passes, give and take a little."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic):
        self.limits, self.clock = limits, clock
        self.began_s, self.heard_s = clock(), 0.0

    def admits(self, seconds: float) -> bool:
        """Whether a message with so much sound is within the pace. Time in which nothing came cannot be made up for."""
        now_s = self.clock() - self.began_s
        self.heard_s = max(self.heard_s, now_s - self.limits.ahead_s) + max(
            seconds, self.limits.message_s
        )
        return self.heard_s <= now_s + self.limits.ahead_s


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets requests pass that come from a page of this server and, where there is one, bring the token.

    A web page from elsewhere can make a browser send requests here: it is told by its Origin, or by a Host that is no
    name of this machine. The token comes as `Authorization: Bearer`, or once as `?token=`, which leaves a cookie.

    Args:
        token: None: only names of this machine itself are served.
        origins: of pages elsewhere that may connect too.
    """

    def __init__(self, app: ASGIApp, token: str | None = None, origins: Collection[str] = ()):
        self.app, self.token, self.origins = app, token, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        if trouble := self._trouble(headers):
            return await _refuse(403, trouble, scope, receive, send)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if self.token is None or self._is_token(_brought(headers)):
            return await self.app(scope, receive, _with_headers(send))
        if scope["type"] == "http" and self._is_token(given):
            redirect = RedirectResponse("/" + scope["path"].lstrip("/\\"), 303)
            redirect.set_cookie(COOKIE, given, httponly=True, samesite="strict")
            return await redirect(scope, receive, send)
        await _refuse(
            401,
            "open the address with ?token=, or send Authorization: Bearer",
            scope,
            receive,
            send,
        )

    def _trouble(self, headers: Headers) -> str | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.token is None and _name(host) not in LOOPBACK_NAMES:
            return f"Host: {host!r:.80} is no name of this machine; use localhost"
        if origin is not None and origin not in self.origins and origin.partition("://")[2] != host:
            return (
                f"Origin: {origin!r:.80} is another page's; start with --origin to let it connect"
            )
        return None

    def _is_token(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())


def _name(host: str) -> str | None:
    """Of a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _brought(headers: Headers) -> str:
    """The token of a request, or nothing."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if cookie is None else cookie.value


def _with_headers(send: Send) -> Send:
    async def sends(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return sends


async def _refuse(status: int, why: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # the request to connect
        await send({"type": "websocket.close", "code": 1008, "reason": why[:100]})
    else:
        await PlainTextResponse(why + "\n", status)(scope, receive, send)
