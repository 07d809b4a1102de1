"""A very small model, and the real entry points on it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from configs.loading import load_config
from configs.recipes import STAGES
from tests.conftest import SMALL_SIZES, TINY
from train import main

BRIEF = [
    "trainer.valid_every_steps=2",
    "trainer.average_every_steps=1",
    "trainer.average_last=2",
    "trainer.max_steps=4",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "trainer.cpu_processes=1",
]
SHORT = [
    *SMALL_SIZES,
    "data.batch_s=25",
    "data.valid_size=4",
    "data.test_size=4",
    "data.num_workers=0",
    "data.max_s=12",
    "data.batch_texts=4",
    "data.batch_dialogues=2",
    "data.valid_dialogues=2",
    "data.test_dialogues=3",
    "wandb.mode=disabled",
    *BRIEF,
    *[f"stages.{stage}.{word}" for stage in STAGES[:-1] for word in BRIEF],
]


def chain_of(stage: str) -> list[str]:
    """The stages that a stage is trained after, in their order, and the stage itself."""
    sources = load_config([TINY[0], f"configs/stage/{stage}.yaml"]).stage.init.values()
    found = {stage}
    for source in set(sources):
        found.update(chain_of(source))
    return [each for each in STAGES if each in found]


def run(script: str, *args: str, wait: bool = True, **env: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, script, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )
    if wait:
        process.out, process.err = process.communicate(timeout=250)
    return process


def train(folder: Path, *args: str, stage: str = "asr", **env: str) -> subprocess.Popen:
    return run(
        "train.py",
        TINY[0],
        f"configs/stage/{stage}.yaml",
        *SHORT,
        f"run.dir={folder}",
        *args,
        **env,
    )


def write_wav(
    path: Path, seconds: float, rate: int = 16000, channels: int = 1, level: float = 0.1
) -> None:
    rng = np.random.default_rng(len(path.name))
    soundfile.write(path, level * rng.standard_normal((int(seconds * rate), channels)), rate)


def write_corpus(folder: Path, count: int = 20) -> Path:
    """A manifest of noise with texts, for all splits."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        write_wav(folder / f"{i}.wav", 1 + i / 20)
        split = "test" if i < 3 else "valid" if i < 6 else "train"
        rows.append(
            {
                "audio": f"{i}.wav",
                "text": f"word {i % 7} and more",
                "speaker": f"s{i % 5}",
                "split": split,
            }
        )
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    return manifest


def losses(folder: Path, stage: str = "encoder") -> dict[int, float]:
    lines = [
        json.loads(line)
        for line in next(folder.glob(f"{stage}-*/metrics.jsonl")).read_text().splitlines()
    ]
    return {line["step"]: line["valid/loss"] for line in lines if "valid/loss" in line}


def train_in_two(
    folder: Path,
    *args: str,
    stage: str,
    kill: signal.Signals,
    send: Callable[[int, int], None] = os.killpg,
) -> None:
    """Kill a stage once it has written a checkpoint, and resume it by the same command. Schedulers
    kill whole groups.
    """
    killed = run(
        "train.py",
        TINY[0],
        f"configs/stage/{stage}.yaml",
        *SHORT,
        f"run.dir={folder}",
        *args,
        wait=False,
    )
    while not list(folder.glob("*/last.ckpt")):
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.02)
    send(killed.pid, kill)
    killed.communicate(timeout=60)
    assert killed.returncode == (143 if kill == signal.SIGTERM else -signal.SIGKILL)
    resumed = train(folder, *args, stage=stage)
    assert resumed.returncode == 0 and "resuming from update" in resumed.out, (
        resumed.out + resumed.err
    )


def refused(folder: Path, *args: str, stage: str = "asr") -> str:
    """The message with which train.py refuses arguments."""
    with pytest.raises(ValueError) as caught:
        main([TINY[0], f"configs/stage/{stage}.yaml", *SHORT, f"run.dir={folder}", *args])
    return str(caught.value)
