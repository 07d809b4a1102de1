"""A stuck or dead worker ends the run and is named with what it was reading."""

import os
import subprocess
import sys
import time

import pytest
from torch.utils.data import Dataset

from datamodules.watchdog import WatchedLoader, reading

pytestmark = pytest.mark.timeout(120)


class Sounds(Dataset[int]):
    """The third cannot be read."""

    def __init__(self, trouble: str):
        self.trouble = trouble

    def __getitem__(self, index: int) -> int:
        with reading(f"{index}.flac"):
            if index == 3 and self.trouble == "stuck":
                time.sleep(600)
            if index == 3 and self.trouble == "dead":
                os._exit(1)
            if index == 3 and self.trouble == "error":
                raise RuntimeError("a mistake in a dataset")
        return index


def loader(trouble: str, workers: int = 1) -> WatchedLoader:
    batches = [[0, 1], [2, 3], [4]]
    return WatchedLoader(
        Sounds(trouble), batch_sampler=batches, num_workers=workers, worker_timeout_s=10
    )


def test_a_sound_loader_is_as_any() -> None:
    assert [batch.tolist() for batch in loader("none")] == [[0, 1], [2, 3], [4]]
    assert [batch.tolist() for batch in loader("none", workers=0)] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("trouble", "answer"),
    [
        ("stuck", "no batch within data.worker_timeout_s=10 s; worker 0 was reading 3.flac"),
        ("dead", "a data worker died: .*; worker 0 was reading 3.flac"),
    ],
)
def test_what_a_lost_worker_was_reading_is_named(trouble: str, answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        list(loader(trouble))


@pytest.mark.parametrize("trouble", ["stuck", "error"])
def test_a_process_that_is_done_with_a_loader_ends(trouble: str) -> None:
    """Also where the loader's iterator is held until the end."""
    code = (
        "from tests.test_watch import loader\n"
        f"held = iter(loader({trouble!r}))\nnext(held)\nprint('done', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout == "done\n" and done.returncode == 0, done.stderr


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="a mistake in a dataset"):
        list(loader("error"))
