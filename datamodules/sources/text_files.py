"""Text files of corpora: UTF-8 with or without a byte order mark, and lines that end as on any
system."""

import re
from pathlib import Path

BYTE_ORDER_MARKS_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
NUM_INSPECTED_BYTES = 400
LINE_BREAK = re.compile("\r\n|\n|\r")
"""Not `str.splitlines`, which also splits at U+2028, U+0085 and form feeds within a text."""


def decode(content: bytes, name: str) -> str:
    """Decode the content of a text file, without a byte order mark.

    Args:
        content: the whole file.
        name: its name, for messages.

    Raises:
        ValueError: it is not UTF-8; the message names the file, the line, and the remedy.
    """
    beginning = content[:NUM_INSPECTED_BYTES]
    # Without a byte order mark, UTF-16 shows by a NUL byte beside every letter.
    is_utf_16 = beginning.count(0) > len(beginning) / 4
    if is_utf_16 or content.startswith(BYTE_ORDER_MARKS_UTF_16):
        raise ValueError(
            f"{name} is not UTF-8 but UTF-16, or no text; save it as UTF-8, for example by "
            "iconv -f UTF-16 -t UTF-8"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{name}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file "
            "as UTF-8, for example by iconv -f cp1252 -t UTF-8"
        ) from None


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        ValueError: it cannot be opened, or is not UTF-8; the message names it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"{path} cannot be read: {reason}; check the file and its rights"
        ) from None
    return decode(content, str(path))


def read_lines(path: Path) -> list[str]:
    """Lines of a text file without their ends, blank lines included. Raises as `read_text`."""
    return LINE_BREAK.split(read_text(path))
