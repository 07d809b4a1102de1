"""Files that the client uploads: below one folder, at addresses that carry a token."""

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
    """Files of runs and artifacts.

    Args:
        folder: that holds them; nothing outside it is read or written.
        key: of the hub, from which the tokens are made.
        url: of the hub.
    """

    def __init__(self, folder: Path, key: str, url: str):
        self.folder = folder.resolve()
        self.key = key
        self.url = url

    def address(self, *parts: str) -> str:
        """URL at which the client may PUT and GET a file.

        Args:
            parts: path of the file, relative to the folder.
        """
        location = "/".join(parts)
        return f"{self.url}/storage/{quote(location)}?token={self._token(location)}"

    def path(self, location: str, token: str) -> Path:
        """Path of the file at an address.

        Args:
            location: path relative to the folder, as in the address.
            token: of the address.

        Raises:
            Refused: the hub did not give this address out, or the path is outside the folder.
        """
        path = (self.folder / location).resolve()
        if not path.is_relative_to(self.folder) or path == self.folder:
            raise Refused("no such file", 403)
        # In constant time, which tells nothing about the right token.
        if not hmac.compare_digest(token.encode(), self._token(location).encode()):
            raise Refused("this address was not given out by the hub", 403)
        return path

    async def write(self, location: str, token: str, parts: AsyncIterator[bytes]) -> None:
        """Write a file at once: readers see the old content or all of the new one.

        Args:
            location: path relative to the folder, as in the address.
            token: of the address.
            parts: content in pieces.

        Raises:
            Refused: the hub did not give this address out, or the path is outside the folder.
        """
        path = self.path(location, token)
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the folder of the file, since only a move within a file system is atomic.
        temporary = path.with_name(f".{secrets.token_hex(8)}")
        try:
            with open(temporary, "wb") as file:
                async for part in parts:
                    file.write(part)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def nodes(self, project: str, run: str) -> list[dict[str, Any]]:
        """The files of a run, with the fields that the client asks for.

        Args:
            project: name of the project.
            run: name of the run.
        """
        folder = (self.folder / "runs" / project / run).resolve()
        if not folder.is_relative_to(self.folder):
            return []
        nodes = []
        for path in sorted(folder.rglob("*")):
            # A leading dot marks a file that is still being written.
            if path.is_file() and not path.name.startswith("."):
                nodes.append(self._node(path, folder, project, run))
        return nodes

    def _node(self, path: Path, folder: Path, project: str, run: str) -> dict[str, Any]:
        name = path.relative_to(folder).as_posix()
        address = self.address("runs", project, run, name)
        return {
            "id": address,
            "name": name,
            "sizeBytes": path.stat().st_size,
            "url": address,
            "directUrl": address,
        }

    def _token(self, location: str) -> str:
        return hmac.new(self.key.encode(), location.encode(), hashlib.sha256).hexdigest()
