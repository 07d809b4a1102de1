"""A loader that cannot hang: when no batch comes, it stops and says what its workers were
reading."""

import contextlib
import ctypes
import functools
import multiprocessing
import signal
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

NAME_BYTES = 512
"""Bytes kept of the name that a worker is reading; a longer one is truncated."""
_slot: Any = None
"""Shared memory of a worker, which the main process reads."""


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Tells the main process what this worker is reading."""
    if _slot is not None:
        _slot.value = name.encode()[: NAME_BYTES - 1]
    try:
        yield
    finally:
        if _slot is not None:
            _slot.value = b""


class WatchedLoader(DataLoader):
    """A DataLoader that raises ValueError, and names what is being read, when no batch comes or a
    worker dies.

    Args:
        worker_timeout_s: seconds without a batch; 0: no limit.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_sampler: Iterable[list[int]],
        num_workers: int,
        worker_timeout_s: float,
        collate_fn: Callable | None = None,
    ):
        self.slots = [
            multiprocessing.RawArray(ctypes.c_char, NAME_BYTES) for _ in range(num_workers)
        ]
        super().__init__(
            dataset,
            batch_sampler=batch_sampler,
            collate_fn=collate_fn,
            num_workers=num_workers,
            timeout=worker_timeout_s if num_workers else 0,
            prefetch_factor=8 if num_workers else None,
            worker_init_fn=functools.partial(_begin, self.slots),
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches: Any = super().__iter__()
        workers = list(getattr(batches, "_workers", []))
        weakref.finalize(
            batches, _end, workers
        )  # also at exit, where multiprocessing would wait for them for ever
        try:
            yield from batches
        except RuntimeError as error:
            if not str(error).startswith("DataLoader"):
                raise
            _end(workers)
            what = f"no batch within data.worker_timeout_s={self.timeout:g} s"
            what = (
                what
                if "timed out" in str(error)
                else f"a data worker died: {' '.join(str(error).split())}"
            )
            raise ValueError(
                f"{what}; {self._report()}; mend or remove it, or raise data.worker_timeout_s"
            ) from None

    def _report(self) -> str:
        names = [
            (worker, slot.value.decode(errors="replace")) for worker, slot in enumerate(self.slots)
        ]
        busy = [f"worker {worker} was reading {name}" for worker, name in names if name]
        return ", ".join(busy) or "no worker was reading a file"


def _end(workers: list[multiprocessing.Process]) -> None:
    """SIGTERM is not enough: see `_begin`. Nor is torch to raise because a worker was killed."""
    alive = [worker for worker in workers if worker.is_alive()]
    if not alive:
        return
    raises = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in alive:
        worker.kill()
        worker.join()
    signal.signal(signal.SIGCHLD, raises)


def _begin(slots: list[Any], worker: int) -> None:
    """A scheduler signals the whole process group; workers that died of it would fail the step that
    is to be saved."""
    global _slot
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _slot = slots[worker]
