"""Files that only their owner may read: the hub's key, and the folder of its data."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

KEY_FILE = "key"
"""Name of the file with the hub's key, in the folder of its data."""
KEY_BYTES = 32
"""Random bytes of a key; in hexadecimal it is longer than the 40 characters that W&B asks for."""
OWNER_ONLY_FILE = 0o600
OWNER_ONLY_FOLDER = 0o700


def private_folder(path: Path) -> Path:
    """Create a folder that only its owner may enter, or take it from others; returns it.

    Args:
        path: of the folder.

    Raises:
        OSError: the folder belongs to somebody else.
    """
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(OWNER_ONLY_FOLDER)
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file, at once, that only its owner may read.

    Args:
        path: of the file, which is replaced if it is there.
        text: its content.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # The mode is given at creation: a later change would leave a moment in which others can read.
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_ONLY_FILE)
    try:
        with open(descriptor, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def hub_key(root: Path) -> Iterator[str]:
    """A context with the key of a hub, random for every start, which clients read from its file.

    The file is removed at the end. After `kill -9` it is there still: the next hub takes that key,
    since the agents of the killed one go on with it.

    Args:
        root: folder of the hub's data.

    Raises:
        OSError: the folder belongs to somebody else.
    """
    path = private_folder(root) / KEY_FILE
    if not path.exists():
        write_private(path, secrets.token_hex(KEY_BYTES))
    key = path.read_text()
    try:
        yield key
    finally:
        path.unlink(missing_ok=True)
