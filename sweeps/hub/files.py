"""Files that the client uploads: below one folder, at addresses that carry a token."""

import base64
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import AsyncIterator, Sequence
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

    def nodes(
        self, project: str, run: str, names: Sequence[str] = (), pattern: str = ""
    ) -> list[dict[str, Any]]:
        """The files of a run, with the fields that the client asks for.

        Args:
            project: name of the project.
            run: name of the run.
            names: the files to return, which need not be there; empty for all.
            pattern: SQL's pattern of their names, in which % is any text and _ any character.
        """
        folder = (self.folder / "runs" / project / run).resolve()
        if not folder.is_relative_to(self.folder):
            return []
        known = []
        for path in sorted(folder.rglob("*")):
            # A leading dot marks a file that is still being written.
            if path.is_file() and not path.name.startswith("."):
                known.append(path.relative_to(folder).as_posix())
        if not names and pattern:
            accepts = _like(pattern)
            known = [name for name in known if accepts.fullmatch(name)]
        return [self._node(project, run, name) for name in names or known]

    def _node(self, project: str, run: str, name: str) -> dict[str, Any]:
        path = (self.folder / "runs" / project / run / name).resolve()
        address = self.address("runs", project, run, name)
        is_there = path.is_relative_to(self.folder) and path.is_file()
        return {
            "id": address,
            "name": name,
            "sizeBytes": path.stat().st_size if is_there else 0,
            # The client takes a file with this digest for one that is not there.
            "md5": lambda arguments: _md5(path) if is_there else "0",
            "url": address,
            "directUrl": address,
        }

    def _token(self, location: str) -> str:
        return hmac.new(self.key.encode(), location.encode(), hashlib.sha256).hexdigest()


def _md5(path: Path) -> str:
    """Digest of a file in the client's format."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "md5").digest()
    return base64.b64encode(digest).decode()


def _like(pattern: str) -> re.Pattern[str]:
    """SQL's pattern as a regular expression."""
    wildcards = {"%": ".*", "_": "."}
    parts = [wildcards.get(character, re.escape(character)) for character in pattern]
    return re.compile("".join(parts), re.DOTALL)
