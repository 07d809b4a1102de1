"""How and with which code a run was started: starts.jsonl in its folder, a line for each time."""

import json
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only

FILE = "starts.jsonl"
CODE = Path(__file__).resolve().parent


@rank_zero_only
def log_start(folder: Path) -> None:
    """Add a line: the time (UTC), the command as it was typed, the git commit or null."""
    command = shlex.join(["python", *sys.orig_argv[1:]])
    start = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "git_commit": git_commit(),
    }
    with open(folder / FILE, "a") as file:
        file.write(json.dumps(start) + "\n")


def git_commit(folder: Path = CODE) -> str | None:
    """The commit that is checked out in the repository of a folder, with -dirty behind it where tracked files differ;
    None where there is no repository, or no git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
