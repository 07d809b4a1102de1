"""A lock on the folder of a run: trials of a sweep share their prerequisite stages."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from lightning_modules.trainer.exits import is_rank_zero

POLL_INTERVAL_S = 0.5


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, which is created; wait while another process holds it.

    The operating system releases the lock of a process that was killed. Only the first rank of a
    training takes the lock; its other ranks train under it.
    """
    if not is_rank_zero():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    # the file stays: removing it could let two processes hold two locks of one name
    lock = FileLock(folder / ".lock")
    try:
        acquired = lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that trains {folder}", flush=True)
        acquired = lock.acquire(poll_interval=POLL_INTERVAL_S)
    with acquired:
        yield
