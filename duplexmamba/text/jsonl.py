"""JSON Lines files: one JSON object per line, appended as a run goes on."""

import json
from pathlib import Path
from typing import Any


def read_complete_lines(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a JSON Lines file.

    Args:
        path: the file; it need not exist.

    Returns:
        One dict per line, oldest first; empty if there is no file. Reading stops at the first line
        that is not valid JSON, since a process killed while writing leaves an incomplete last line.
    """
    if not path.exists():
        return []
    lines = []
    # Not splitlines, which also splits at characters that JSON strings may hold.
    for text in path.read_text(encoding="utf-8").split("\n"):
        if not text:
            continue
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        lines.append(line)
    return lines
