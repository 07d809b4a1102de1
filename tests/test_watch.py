"""A stuck or dead worker ends the run; the error names the file that it was reading."""

import os
import subprocess
import sys
import time

import pytest
from torch.utils.data import Dataset

from datamodules.watchdog import WatchedLoader, reading

pytestmark = pytest.mark.timeout(120)


class Sounds(Dataset[int]):
    """Numbers; reading number 3 fails as configured."""

    def __init__(self, failure: str):
        self.failure = failure

    def __getitem__(self, index: int) -> int:
        with reading(f"{index}.flac"):
            if index == 3 and self.failure == "stuck":
                time.sleep(600)
            if index == 3 and self.failure == "dead":
                os._exit(1)
            if index == 3 and self.failure == "error":
                raise RuntimeError("a mistake in a dataset")
        return index


def loader(failure: str, workers: int = 1) -> WatchedLoader:
    batches = [[0, 1], [2, 3], [4]]
    return WatchedLoader(
        Sounds(failure), batch_sampler=batches, num_workers=workers, worker_timeout_s=10
    )


def test_a_loader_without_failures_yields_all_batches() -> None:
    assert [batch.tolist() for batch in loader("none")] == [[0, 1], [2, 3], [4]]
    assert [batch.tolist() for batch in loader("none", workers=0)] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("stuck", "no batch within data.worker_timeout_s=10 s; worker 0 was reading 3.flac"),
        ("dead", "a data worker died: .*; worker 0 was reading 3.flac"),
    ],
)
def test_the_file_of_a_lost_worker_is_named(failure: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(loader(failure))


@pytest.mark.parametrize("failure", ["stuck", "error"])
def test_a_process_ends_although_its_loader_is_unfinished(failure: str) -> None:
    """The iterator of the loader exists until the end of the process."""
    code = (
        "from tests.test_watch import loader\n"
        f"batches_iterator = iter(loader({failure!r}))\nnext(batches_iterator)\nprint('done', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout == "done\n" and done.returncode == 0, done.stderr


def test_other_errors_are_raised_unchanged() -> None:
    with pytest.raises(RuntimeError, match="a mistake in a dataset"):
        list(loader("error"))
