"""Files that the client uploads, below one folder, at addresses that carry a token."""

import hashlib
import hmac
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sweeps.hub.answer import Refused


class Files:
    """Of runs and artifacts.

    Args:
        folder: that holds them; nothing outside it is read or written.
        key: of the hub, from which the tokens are made.
        url: of the hub.
    """

    def __init__(self, folder: Path, key: str, url: str):
        self.folder, self.key, self.url = folder.resolve(), key, url

    def address(self, *parts: str) -> str:
        """Where the client may PUT and GET a file."""
        place = "/".join(parts)
        return f"{self.url}/storage/{quote(place)}?token={self._token(place)}"

    def path(self, place: str, token: str) -> Path:
        """Raises Refused: a place that was not given out, or is outside."""
        path = (self.folder / place).resolve()
        if not path.is_relative_to(self.folder) or path == self.folder:
            raise Refused("no such file", 403)
        if not hmac.compare_digest(token.encode(), self._token(place).encode()):
            raise Refused("this address was not given out by the hub", 403)
        return path

    async def write(self, place: str, token: str, parts: AsyncIterator[bytes]) -> None:
        """In one piece: readers see the old file or the new one."""
        path = self.path(place, token)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(8)}")
        try:
            with open(temporary, "wb") as file:
                async for part in parts:
                    file.write(part)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def nodes(self, project: str, run: str) -> list[dict[str, Any]]:
        """The files of a run."""
        folder = (self.folder / "runs" / project / run).resolve()
        if not folder.is_relative_to(self.folder):
            return []
        found = [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        ]
        return [self._node(path, folder, project, run) for path in found]

    def _node(self, path: Path, folder: Path, project: str, run: str) -> dict[str, Any]:
        name, size = path.relative_to(folder).as_posix(), path.stat().st_size
        address = self.address("runs", project, run, name)
        return {
            "id": address,
            "name": name,
            "sizeBytes": size,
            "url": address,
            "directUrl": address,
        }

    def _token(self, place: str) -> str:
        return hmac.new(self.key.encode(), place.encode(), hashlib.sha256).hexdigest()
