"""A loader that cannot hang: when no batch comes, it stops and says what its workers were reading."""

import contextlib
import ctypes
import functools
import multiprocessing
import signal
import weakref
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

NAME_BYTES = 512
"""Of what a worker is reading; the rest of a longer name is cut off."""
_slot: Any = None
"""Of a worker: memory that the main process sees too."""


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Tells the main process what this worker is reading."""
    if _slot is not None:
        _slot.value = name.encode()[: NAME_BYTES - 1]
    yield
    if _slot is not None:
        _slot.value = b""


class WatchedLoader(DataLoader):
    """A DataLoader that raises ValueError, and names what is being read, when no batch comes or a worker dies.

    Args:
        stuck_after_s: seconds without a batch; 0: no limit.
    """

    def __init__(self, *args: Any, num_workers: int, stuck_after_s: float, **more: Any):
        self.slots = [multiprocessing.RawArray(ctypes.c_char, NAME_BYTES) for _ in range(num_workers)]
        more |= {"timeout": stuck_after_s if num_workers else 0, "prefetch_factor": 8 if num_workers else None}
        super().__init__(*args, num_workers=num_workers, worker_init_fn=functools.partial(_begin, self.slots), **more)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches: Any = super().__iter__()
        workers = list(getattr(batches, "_workers", []))
        weakref.finalize(batches, _end, workers)  # also at exit, where multiprocessing would wait for them for ever
        try:
            yield from batches
        except RuntimeError as error:
            if not str(error).startswith("DataLoader"):
                raise
            _end(workers)
            what = f"no batch within data.stuck_after_s={self.timeout:g} s"
            what = what if "timed out" in str(error) else f"a data worker died: {' '.join(str(error).split())}"
            raise ValueError(f"{what}; {self._report()}; mend or remove it, or raise data.stuck_after_s") from None

    def _report(self) -> str:
        names = [(worker, slot.value.decode(errors="replace")) for worker, slot in enumerate(self.slots)]
        busy = [f"worker {worker} was reading {name}" for worker, name in names if name]
        return ", ".join(busy) or "no worker was reading a file"


def _end(workers: list[multiprocessing.Process]) -> None:
    """SIGTERM is not enough: see `_begin`."""
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def _begin(slots: list[Any], worker: int) -> None:
    """A scheduler signals the whole process group; workers that died of it would fail the step that is to be saved."""
    global _slot
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _slot = slots[worker]
