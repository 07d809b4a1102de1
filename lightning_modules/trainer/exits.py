"""How programs end and what they print: exit codes, one-sentence errors, quiet libraries."""

import contextlib
import errno
import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from types import FrameType

from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

EXIT_DISK_FULL = 1
EXIT_BAD_INPUT = 2
EXIT_SIGTERM = 143
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk without space, and of a user whose quota is used up."""
NOT_WRITABLE = "choose a folder that you may read and write, such as run.dir=FOLDER for a training"
REMEDIES = {
    errno.EACCES: NOT_WRITABLE,
    errno.EPERM: NOT_WRITABLE,
    errno.EROFS: NOT_WRITABLE,
    errno.ENOENT: "name a file or folder that exists",
    errno.ENOTDIR: "a part of this path is a file: name a folder, or remove the file",
    errno.EISDIR: "this is a folder where a file is needed: name a file, or remove the folder",
    errno.EEXIST: "a file lies where a folder is needed: remove it, or name another folder",
    errno.ENAMETOOLONG: "give a shorter name, such as a shorter run.id",
    errno.EMFILE: "too many files are open: raise the limit with `ulimit -n 4096`",
    errno.ESTALE: "the network file system lost the file: the same command goes on",
    errno.EIO: "the disk or the network file system failed: the same command goes on once it works",
}
"""Number of an error of the system -> what a user can do about it."""


def is_rank_zero() -> bool:
    """Whether this process is the first of its training, or the only one."""
    return getattr(rank_zero_only, "rank", 0) == 0


def quiet_libraries() -> None:
    """Silence advertisements, start-up messages and harmless warnings of the libraries."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    # "Initializing distributed" comes once from every rank; training prints its own line on the
    # first
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    # from convolutions with a single input channel
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")


@contextlib.contextmanager
def exit_cleanly() -> Iterator[None]:
    """Turn an error that the user can mend into one sentence and an exit code.

    Exit codes are 2 for bad input and for files that cannot be read or written, 1 for a full disk,
    and 143 after SIGTERM. After SIGTERM only the
    first rank exits with 143: if another rank did, Lightning would kill the first rank before it
    has ended.
    """
    try:
        yield
    except SIGTERMException:
        if not is_rank_zero():
            sys.exit(0)
        print("stopped by SIGTERM: the same command resumes this training", file=sys.stderr)
        sys.exit(EXIT_SIGTERM)
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except (OSError, RuntimeError) as error:
        if is_disk_full(error):
            message = "disk full; free space: the same command resumes from its last checkpoint"
            print(f"error: {message}", file=sys.stderr)
            sys.exit(EXIT_DISK_FULL)
        if not isinstance(error, OSError) or error.errno not in REMEDIES:
            raise
        name = f"{error.filename}: " if error.filename else ""
        print(f"error: {name}{error.strerror}; {REMEDIES[error.errno]}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk caused an error, directly or further up the chain of its contexts.

    torch raises an error of its own while it handles the one of the file system.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return True
        error = error.__context__
    return False


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Make SIGTERM raise SIGTERMException, except while a trainer handles it."""

    def stop(signum: int, frame: FrameType | None) -> None:
        # a trainer's handler calls this one too, and then decides itself when to stop
        if signal.getsignal(signal.SIGTERM) is stop:
            raise SIGTERMException

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
