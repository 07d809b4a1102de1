"""As much of W&B's server as saving a report and reading it back takes: no more than the client asks for."""

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VIEWER = {
    "id": "V1", "entity": "team", "username": "ann", "name": "Ann", "admin": False, "email": "", "flags": "{}",
    "deletedAt": None, "teams": {"edges": []}, "apiKeys": {"edges": []},
}  # fmt: skip
PROJECT = {
    "__typename": "Project", "id": "P1", "internalId": "UHJvamVjdDo3", "name": "duplexmamba", "entityName": "team",
    "createdAt": "", "isBenchmark": False, "user": None,
}  # fmt: skip
LAST = {"__typename": "PageInfo", "endCursor": "1", "hasNextPage": False}
PAGE = {"edges": [{"node": PROJECT}], "pageInfo": LAST}


class FakeWandb:
    """Views by id."""

    def __init__(self) -> None:
        self.views: dict[str, dict[str, Any]] = {}

    def answer(self, query: str, values: dict[str, Any]) -> dict[str, Any]:
        if "upsertView" in query:
            return {"upsertView": {"view": self.upsert(values), "inserted": True}}
        if "view(id" in query:
            return {"view": self.views[values["reportId"]]}
        return {"viewer": VIEWER, "project": PROJECT, "models": PAGE, "serverInfo": None}

    def upsert(self, values: dict[str, Any]) -> dict[str, Any]:
        view_id = base64.b64encode(f"View:{len(self.views) + 1}".encode()).decode()
        self.views[view_id] = {**values, "id": view_id, "project": PROJECT, "createdAt": None, "updatedAt": None}
        return self.views[view_id]


@contextlib.contextmanager
def serve(fake: FakeWandb) -> Iterator[str]:
    """The address of the server, while it runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
            data = {"data": fake.answer(body.get("query", ""), body.get("variables") or {})}
            text = json.dumps(data).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: Any) -> None:
            """Nothing on the screen of the tests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
