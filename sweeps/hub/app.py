"""The hub over HTTP.

Whatever goes wrong, the client is answered with a status below 500: it repeats a request with a
higher one for minutes.
"""

import base64
import gzip
import hmac
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
from sweeps.hub.store import read_json

log = logging.getLogger("hub")
Endpoint = Callable[[Request], Awaitable[Response]]
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH"]
"""HTTP methods that the hub answers, also at addresses where it has nothing."""


def make_app(api: Api) -> Starlette:
    """The web application of a hub.

    Requests are answered one after the other, so two agents never get the same trial.
    """

    async def graphql(request: Request) -> Response:
        check_key(request, api.key)
        body = await read_body(request)
        return JSONResponse({"data": api.graphql(body)})

    async def stream(request: Request) -> Response:
        check_key(request, api.key)
        project = request.path_params["project"]
        run = request.path_params["run"]
        body = await read_body(request)
        return JSONResponse(api.stream(project, run, body))

    async def storage(request: Request) -> Response:
        # The token of the address stands for the key, which the client does not send here.
        location = request.path_params["location"]
        token = request.query_params.get("token", "")
        if request.method == "PUT":
            await api.files.write(location, token, request.stream())
            return Response()
        path = api.files.path(location, token)
        if not path.is_file():
            raise Refused("no such file", 404)
        return FileResponse(path)

    async def telemetry(request: Request) -> Response:
        return Response()

    async def unknown(request: Request) -> Response:
        raise Refused("the hub has nothing there", 404)

    return Starlette(
        routes=[
            Route("/graphql", guarded(graphql), methods=["POST"]),
            Route("/files/{entity}/{project}/{run}/file_stream", guarded(stream), methods=["POST"]),
            Route("/storage/{location:path}", guarded(storage), methods=["GET", "PUT"]),
            Route("/sdk/{rest:path}", guarded(telemetry), methods=METHODS),
            Route("/{rest:path}", guarded(unknown), methods=METHODS),
        ]
    )


def guarded(endpoint: Endpoint) -> Endpoint:
    """An endpoint that turns exceptions into GraphQL errors."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refused as error:
            return error_response(str(error), error.status)
        except sqlite3.OperationalError as error:
            # Locked, or the disk is full; after this status the client tries again.
            log.error("%s %s: %s", request.method, request.url.path, error)
            return error_response(f"the hub's database: {error}", 429)
        except Exception as error:
            # Anything else would become a status of 500.
            log.exception("%s %s", request.method, request.url.path)
            return error_response(f"the hub could not do that: {error!r}", 400)

    return answer


def error_response(message: str, status: int) -> Response:
    """An error in GraphQL's format, with an HTTP status."""
    return JSONResponse({"errors": [{"message": message}], "data": None}, status)


def check_key(request: Request, key: str) -> None:
    """Check that a request carries the hub's key, as the password of basic authentication.

    Raises:
        Refused: it has another key, or none.
    """
    if not hmac.compare_digest(_key_of(request), key.encode()):
        raise Refused("this is not the hub's key", 401)


def _key_of(request: Request) -> bytes:
    """Key in a request; empty if there is none that can be read."""
    header = request.headers.get("authorization", "")
    scheme, _, credentials = header.partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        decoded = base64.b64decode(credentials, validate=True)
    except ValueError:
        return b""
    _, _, password = decoded.partition(b":")
    return password


async def read_body(request: Request) -> Any:
    """Content of a request, which may be compressed.

    Raises:
        Refused: it is no JSON.
    """
    raw = await request.body()
    try:
        if request.headers.get("content-encoding") == "gzip":
            raw = gzip.decompress(raw)
        return read_json(raw)
    except (ValueError, OSError, EOFError) as error:
        raise Refused(f"the body is no JSON: {error}") from None
