"""A loader that cannot hang: when no batch comes, it says what its workers are at."""

import ctypes
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, get_worker_info

NAME_BYTES = 512
"""Of what a worker is at; more is cut off."""


class Watched(Dataset[Any]):
    """A dataset whose workers note, where the main process can see it, which item they are at.

    Args:
        name: index -> what people call the item.
    """

    def __init__(self, dataset: Dataset, name: Callable[[int], str], workers: int):
        self.dataset, self.name = dataset, name
        self.at = [multiprocessing.RawArray(ctypes.c_char, NAME_BYTES) for _ in range(workers)]

    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        if info is None:
            return self.dataset[index]
        self.at[info.id].value = self.name(index).encode()[: NAME_BYTES - 1]
        item = self.dataset[index]
        self.at[info.id].value = b""
        return item

    def report(self) -> str:
        """The workers that are at something, and at what."""
        busy = [(worker, at.value.decode(errors="replace")) for worker, at in enumerate(self.at) if at.value]
        return "; ".join(f"worker {worker} is at {name}" for worker, name in busy) or "no worker is at any item"


class WatchedLoader(DataLoader):
    """A DataLoader over a `Watched` dataset.

    Raises:
        ValueError: no batch came within `timeout` seconds, or a worker died; names the items they were at.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except RuntimeError as error:
            if "DataLoader" not in str(error) or "Caught" in str(error):
                raise
            assert isinstance(self.dataset, Watched)
            late = "timed out" in str(error)
            what = f"no batch in data.stuck_after_s={self.timeout:g} s" if late else f"a data worker died ({error})"
            raise ValueError(
                f"{what}: {self.dataset.report()}; mend or remove it, or raise data.stuck_after_s"
            ) from None
