"""The hub over HTTP. Whatever goes wrong, the client hears a status below 500: those above it repeats for minutes."""

import base64
import gzip
import hmac
import json
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from sweeps.hub.answer import Refused
from sweeps.hub.api import Api

log = logging.getLogger("hub")
Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(api: Api) -> Starlette:
    """Requests are answered one after the other: two agents never get the same point."""

    async def graphql(request: Request) -> Response:
        show_key(request, api.key)
        return JSONResponse({"data": api.graphql(await body_of(request))})

    async def stream(request: Request) -> Response:
        show_key(request, api.key)
        names = request.path_params
        return JSONResponse(api.stream(names["project"], names["run"], await body_of(request)))

    async def storage(request: Request) -> Response:
        place, token = request.path_params["place"], request.query_params.get("token", "")
        if request.method == "PUT":
            await api.files.write(place, token, request.stream())
            return Response()
        path = api.files.path(place, token)
        if not path.is_file():
            raise Refused("no such file", 404)
        return FileResponse(path)

    async def telemetry(request: Request) -> Response:
        return Response()

    async def unknown(request: Request) -> Response:
        raise Refused("the hub has nothing there", 404)

    every = ["GET", "POST", "PUT", "DELETE", "PATCH"]
    return Starlette(
        routes=[
            Route("/graphql", guarded(graphql), methods=["POST"]),
            Route("/files/{entity}/{project}/{run}/file_stream", guarded(stream), methods=["POST"]),
            Route("/storage/{place:path}", guarded(storage), methods=["GET", "PUT"]),
            Route("/sdk/{rest:path}", guarded(telemetry), methods=every),
            Route("/{rest:path}", guarded(unknown), methods=every),
        ]
    )


def guarded(endpoint: Endpoint) -> Endpoint:
    """Errors as GraphQL has them."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refused as error:
            return refusal(str(error), error.status)
        except (
            sqlite3.OperationalError
        ) as error:  # locked, or the disk is full: the client asks again
            log.error("%s %s: %s", request.method, request.url.path, error)
            return refusal(f"the hub's database: {error}", 429)
        except Exception as error:  # never a 5xx, whatever it is
            log.exception("%s %s", request.method, request.url.path)
            return refusal(f"the hub could not do that: {error!r}", 400)

    return answer


def refusal(message: str, status: int) -> Response:
    return JSONResponse({"errors": [{"message": message}], "data": None}, status)


def show_key(request: Request, key: str) -> None:
    """Raises Refused: another key, or none."""
    scheme, _, word = request.headers.get("authorization", "").partition(" ")
    try:
        shown = (
            base64.b64decode(word, validate=True).partition(b":")[2]
            if scheme.lower() == "basic"
            else b""
        )
    except ValueError:
        shown = b""
    if not hmac.compare_digest(shown, key.encode()):
        raise Refused("this is not the hub's key", 401)


async def body_of(request: Request) -> Any:
    """Raises Refused: no JSON."""
    raw = await request.body()
    try:
        return json.loads(
            gzip.decompress(raw) if request.headers.get("content-encoding") == "gzip" else raw
        )
    except (ValueError, OSError, EOFError) as error:
        raise Refused(f"the body is no JSON: {error}") from None
