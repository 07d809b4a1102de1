"""Stages that do not depend on each other, trained at the same time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from configs.loading import load_config
from lightning_modules.trainer.checkpoint import FILE, StageCheckpoint
from lightning_modules.trainer.hardware import num_cores, num_processes
from lightning_modules.trainer.locks import run_lock
from lightning_modules.trainer.parallel import run_parallel
from lightning_modules.trainer.stage_graph import parallel_commands, run_folder
from tests.conftest import TINY
from tests.small_runs import SHORT, run

pytestmark = pytest.mark.timeout(300)
WAITS = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); "
    "print('here', flush=True); "
)


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)


def train_args(runs: Path, stage: str = "asr", *more: str) -> list[str]:
    return [TINY[0], f"configs/stage/{stage}.yaml", *SHORT, f"run.dir={runs}", *more]


@pytest.mark.parametrize("stage", ["asr", "streaming"])
def test_root_stages_are_trained_at_the_same_time(
    stage: str, tmp_path: Path, two_cores: None
) -> None:
    args = train_args(tmp_path, stage)
    command = [sys.executable, "-m", "lightning_modules.trainer", *args, "--only-stage=lm"]
    assert parallel_commands(args) == [command]


@pytest.mark.parametrize(
    "more",
    [
        ["stages.lm.trainer.threads=2"],
        ["stages.lm.trainer.threads=0"],
        ["trainer.devices=2"],
        ["trainer.accelerator=gpu"],
        ["lm.pretrained=somewhere"],
    ],
)
def test_root_stages_are_not_parallel_without_free_cores(
    more: list[str], tmp_path: Path, two_cores: None
) -> None:
    assert parallel_commands(train_args(tmp_path, "asr", *more)) == []


@pytest.mark.parametrize("stage", ["encoder", "lm"])
def test_a_single_untrained_stage_has_no_parallel_command(
    stage: str, tmp_path: Path, two_cores: None
) -> None:
    assert parallel_commands(train_args(tmp_path, stage)) == []
    folder = run_folder(load_config(train_args(tmp_path), stage))
    folder.mkdir()
    (folder / "summary.json").write_text("{}")
    assert parallel_commands(train_args(tmp_path)) == []


@pytest.mark.parametrize(
    ("more", "env", "expected"),
    [
        ([], {}, 2),
        (["trainer.threads=2"], {}, 1),
        (["trainer.threads=0"], {}, 1),
        (["trainer.devices=3"], {}, 3),
        (["trainer.accelerator=gpu"], {}, 1),
        ([], {"TORCHELASTIC_RUN_ID": "1", "GROUP_RANK": "0"}, 1),
    ],
)
def test_processes_are_limited_by_cores(
    more: list[str],
    env: dict[str, str],
    expected: int,
    two_cores: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    args = train_args(Path("runs"), "asr", "trainer.cpu_processes=4", *more)
    assert num_processes(load_config(args).trainer) == expected


@pytest.mark.skipif(num_cores() < 2, reason="needs two cores")
def test_stages_of_several_processes_depend_on_each_other(tmp_path: Path) -> None:
    """They are the same experiment as with one process, and print once for all processes."""
    pytest.importorskip("espeakng_loader")
    several = ["stages.encoder.trainer.cpu_processes=2", "trainer.cpu_processes=2"]
    done = run("train.py", *train_args(tmp_path, "asr", *several))
    assert done.returncode == 0, done.out + done.err
    output = done.out + done.err
    assert output.count("training with 2 processes") == 2
    assert "Initializing distributed" not in output and output.count("asr: step 2/") == 1
    again = run("train.py", *train_args(tmp_path))
    assert again.returncode == 0 and again.out.count("already trained") == 3, again.out + again.err
    assert json.loads((tmp_path / "latest" / "summary.json").read_text())["test/wer"] >= 0


def test_a_command_that_is_waited_for_ends_with_this_process(tmp_path: Path) -> None:
    """SIGTERM is passed on to it; its exit code becomes this process's."""
    script = (
        "import sys, lightning_modules.trainer.exits as e\n"
        "import lightning_modules.trainer.parallel as p\n"
        "with e.exit_cleanly(): p.run_to_completion([sys.executable, '-c', sys.argv[1]])"
    )
    failing = subprocess.run([sys.executable, "-c", script, "import sys; sys.exit(3)"])
    assert failing.returncode == 3
    touch = f"import pathlib; pathlib.Path({str(tmp_path / 'stopped')!r}).touch()"
    waits = WAITS.replace("sys.exit(0)", f"[exec({touch!r}), sys.exit(0)]")
    waiting = subprocess.Popen(
        [sys.executable, "-c", script, waits + "time.sleep(600)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert waiting.stdout is not None and waiting.stdout.readline() == b"here\n"
    waiting.terminate()
    waiting.communicate(timeout=60)
    assert waiting.returncode == 143 and (tmp_path / "stopped").exists()


def test_output_is_relayed_and_running_commands_are_stopped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    start, output = time.monotonic(), ""
    with run_parallel(
        [[sys.executable, "-c", WAITS + "time.sleep(600)"], [sys.executable, "-c", "print('done')"]]
    ):
        while not {"here", "done"} <= set(output.split()):
            assert time.monotonic() < start + 60, output
            time.sleep(0.05)
            output += capsys.readouterr().out
    assert time.monotonic() < start + 120


def test_parallel_stages_have_the_weights_of_sequential_ones(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    for folder, options in (
        ("parallel", [[]]),
        ("sequential", [["--only-stage=encoder"], ["--only-stage=lm"], []]),
    ):
        for option in options:
            done = run("train.py", *train_args(tmp_path / folder), *option)
            assert done.returncode == 0, done.out + done.err
    for name in ("parallel", "sequential"):
        assert len(list((tmp_path / name).glob("*-tiny-*/checkpoint.pt"))) == 3
    for file in (tmp_path / "sequential").glob("*-tiny-*/checkpoint.pt"):
        other = StageCheckpoint.load(tmp_path / "parallel" / file.parent.name / FILE)
        for key, value in StageCheckpoint.load(file).weights.items():
            torch.testing.assert_close(other.weights[key], value, atol=0, rtol=0)


def test_sigterm_stops_all_parallel_stages(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    long = [
        "trainer.checkpoint_every_s=0",
        "stages.encoder.trainer.max_steps=200",
        "stages.lm.trainer.max_steps=200",
    ]
    long += [
        "stages.encoder.trainer.checkpoint_every_s=0",
        "stages.lm.trainer.checkpoint_every_s=0",
    ]
    stopped = run("train.py", *train_args(tmp_path, "asr", *long), wait=False)
    while len(list(tmp_path.glob("*/last.ckpt"))) < min(2, len(os.sched_getaffinity(0))):
        assert stopped.poll() is None, stopped.stderr.read()
        time.sleep(0.02)
    os.kill(stopped.pid, signal.SIGTERM)
    stopped.communicate(timeout=60)
    assert stopped.returncode == 143
    for folder in tmp_path.glob("*-tiny-*"):
        with run_lock(folder):
            assert (folder / "last.ckpt").exists() and not (folder / "summary.json").exists()
