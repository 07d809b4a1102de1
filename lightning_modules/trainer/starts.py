"""The file starts.jsonl in a run's folder: command and code version of each start."""

import json
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only

FILE = "starts.jsonl"
CODE = Path(__file__).resolve().parent
GIT_TIMEOUT_S = 30


@rank_zero_only
def log_start(folder: Path) -> None:
    """Append a line: the time (UTC), the command as it was typed, and the git commit or null."""
    # orig_argv has interpreter options such as -m, which sys.argv lacks
    command = shlex.join(["python", *sys.orig_argv[1:]])
    start = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "git_commit": git_commit(),
    }
    with open(folder / FILE, "a") as file:
        file.write(json.dumps(start) + "\n")


def git_commit(folder: Path = CODE) -> str | None:
    """Return the git commit of a folder, or None without a repository or without git.

    The commit ends in `-dirty` where tracked files differ from it.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
