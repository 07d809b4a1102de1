"""A lock on the folder of a run: trials of a sweep share their prerequisite stages."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from lightning_modules.trainer.exits import is_rank_zero

POLL_INTERVAL_S = 0.5
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems without locks."""


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
    with _acquire(folder / ".lock"):
        yield


def _acquire(path: Path) -> contextlib.AbstractContextManager[object]:
    """Acquire a lock that is held until the context ends; print why where there can be none."""
    # the file stays: removing it could let two processes hold two locks of one name
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print(
            f"waiting for another process that trains {path.parent} "
            f"(if there is none, delete {path})",
            flush=True,
        )
        return lock.acquire(poll_interval=POLL_INTERVAL_S)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(
            f"{path.parent}: its file system has no locks ({error.strerror}); do not train it "
            "by two commands at the same time",
            flush=True,
        )
        return contextlib.nullcontext()
