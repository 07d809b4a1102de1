"""A data loader that cannot hang: when no batch comes, it raises an error that names the files that
its workers were reading."""

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
"""Size of the shared memory for the name of the file that a worker is reading; a longer name is
truncated."""
PREFETCHED_BATCHES = 8
"""Batches that each worker prepares in advance."""
_current_name: Any = None
"""In a worker: shared memory that holds the name of the file it is reading; elsewhere None."""


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Tell the main process what this worker is reading while the context is open.

    Args:
        name: name of the file, for the error message.
    """
    if _current_name is not None:
        # The last byte stays 0, which ends a C string.
        _current_name.value = name.encode()[: NAME_BYTES - 1]
    try:
        yield
    finally:
        if _current_name is not None:
            _current_name.value = b""


class WatchedLoader(DataLoader):
    """A DataLoader that raises ValueError when no batch comes or a worker dies.

    The message names what each worker was reading.

    Args:
        dataset: source of the items.
        batch_sampler: indices of the items of each batch.
        num_workers: worker processes; 0 reads in this process, without a time limit.
        worker_timeout_s: seconds to wait for a batch; 0: no limit.
        collate_fn: forms a batch of a list of items.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_sampler: Iterable[list[int]],
        num_workers: int,
        worker_timeout_s: float,
        collate_fn: Callable | None = None,
    ):
        # Shared memory survives the death of a worker, unlike a queue or a pipe.
        self.current_names: list[Any] = []
        for _ in range(num_workers):
            self.current_names.append(multiprocessing.RawArray(ctypes.c_char, NAME_BYTES))
        super().__init__(
            dataset,
            batch_sampler=batch_sampler,
            collate_fn=collate_fn,
            num_workers=num_workers,
            timeout=worker_timeout_s if num_workers else 0,
            prefetch_factor=PREFETCHED_BATCHES if num_workers else None,
            worker_init_fn=functools.partial(_start_worker, self.current_names),
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches: Any = super().__iter__()
        workers = list(getattr(batches, "_workers", []))
        # Also runs at exit, where multiprocessing would wait for the workers without limit.
        weakref.finalize(batches, _kill, workers)
        try:
            yield from batches
        except RuntimeError as error:
            # torch raises no class of its own; errors of the dataset have other texts.
            if not str(error).startswith("DataLoader"):
                raise
            _kill(workers)
            problem = self._describe(error)
            raise ValueError(
                f"{problem}; {self._report()}; mend or remove it, or raise data.worker_timeout_s"
            ) from None

    def _describe(self, error: RuntimeError) -> str:
        if "timed out" in str(error):
            return f"no batch within data.worker_timeout_s={self.timeout:g} s"
        one_line = " ".join(str(error).split())
        return f"a data worker died: {one_line}"

    def _report(self) -> str:
        """Names of the files that the workers are reading, as a phrase for an error message."""
        phrases = []
        for worker, current_name in enumerate(self.current_names):
            name = current_name.value.decode(errors="replace")
            if name:
                phrases.append(f"worker {worker} was reading {name}")
        return ", ".join(phrases) or "no worker was reading a file"


def _kill(workers: list[multiprocessing.Process]) -> None:
    """Kill the workers that are alive, and wait for their end."""
    alive = [worker for worker in workers if worker.is_alive()]
    if not alive:
        return
    # torch's handler of SIGCHLD raises an error for a killed worker, so it is suspended.
    torch_handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in alive:
        # SIGTERM is ignored by workers, see `_start_worker`.
        worker.kill()
        worker.join()
    signal.signal(signal.SIGCHLD, torch_handler)


def _start_worker(current_names: list[Any], worker: int) -> None:
    """Initialise a worker process."""
    global _current_name
    # A scheduler signals the whole process group. Workers that died of it would fail the training
    # step whose result the main process is to save.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _current_name = current_names[worker]
