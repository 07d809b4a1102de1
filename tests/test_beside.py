"""Stages that do not stand on each other, trained at the same time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train
from configs.loading import load_config
from lightning_modules.trainer.checkpoint import FILE, StageCheckpoint
from lightning_modules.trainer.hardware import exclusive, num_cores, num_processes
from lightning_modules.trainer.parallel import beside
from tests.conftest import TINY
from tests.small_runs import SHORT, run

pytestmark = pytest.mark.timeout(300)
WAITS = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print('here', flush=True); "


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)


def words(runs: Path, stage: str = "asr", *more: str) -> list[str]:
    return [TINY[0], f"configs/stage/{stage}.yaml", *SHORT, f"run.dir={runs}", *more]


@pytest.mark.parametrize("stage", ["asr", "streaming"])
def test_what_stands_on_nothing_is_trained_at_the_same_time(
    stage: str, tmp_path: Path, two_cores: None
) -> None:
    asked = words(tmp_path, stage)
    assert train.parallel_commands(asked) == [
        [sys.executable, train.__file__, *asked, "--upstream=lm"]
    ]


@pytest.mark.parametrize(
    "more", [["stages.lm.trainer.threads=2"], ["stages.lm.trainer.threads=0"], ["trainer.devices=2"],
             ["trainer.accelerator=gpu"], ["lm.pretrained=somewhere"]]
)  # fmt: skip
def test_where_it_would_be_in_the_way_nothing_is(
    more: list[str], tmp_path: Path, two_cores: None
) -> None:
    assert train.parallel_commands(words(tmp_path, "asr", *more)) == []


@pytest.mark.parametrize("stage", ["encoder", "lm"])
def test_nor_where_there_is_one_stage_to_train(stage: str, tmp_path: Path, two_cores: None) -> None:
    assert train.parallel_commands(words(tmp_path, stage)) == []
    folder = train.run_folder(load_config(words(tmp_path), stage))
    folder.mkdir()
    (folder / "summary.json").write_text("{}")
    assert train.parallel_commands(words(tmp_path)) == []


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
def test_batches_are_shared_out_among_the_cores_that_there_are(
    more: list[str],
    env: dict[str, str],
    expected: int,
    two_cores: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    asked = words(Path("runs"), "asr", "trainer.cpu_processes=4", *more)
    assert num_processes(load_config(asked).trainer) == expected


@pytest.mark.skipif(num_cores() < 2, reason="needs two cores")
def test_stages_of_several_processes_stand_on_each_other(tmp_path: Path) -> None:
    """And are the same experiment as those of one."""
    pytest.importorskip("espeakng_loader")
    several = ["stages.encoder.trainer.cpu_processes=2", "trainer.cpu_processes=2"]
    done = run("train.py", *words(tmp_path, "asr", *several))
    assert done.returncode == 0, done.out + done.err
    assert (done.out + done.err).count("MEMBER: 2/2") == 2
    again = run("train.py", *words(tmp_path))
    assert again.returncode == 0 and again.out.count("trained before") == 3, again.out + again.err
    assert json.loads((tmp_path / "latest" / "summary.json").read_text())["test/wer"] >= 0


def test_what_is_waited_for_ends_with_this_process_and_as_it_does(tmp_path: Path) -> None:
    """SIGTERM goes on to it; its failure is this one's."""
    imports = "import sys, lightning_modules.trainer.parallel as b, lightning_modules.trainer.hardware as e\n"
    script = imports + "with e.exit_cleanly(): b.wait_for([sys.executable, '-c', sys.argv[1]])"
    failing = subprocess.run([sys.executable, "-c", script, "import sys; sys.exit(3)"])
    assert failing.returncode == 3
    told = f"import pathlib; pathlib.Path({str(tmp_path / 'told')!r}).touch()"
    waits = WAITS.replace("sys.exit(0)", f"[exec({told!r}), sys.exit(0)]")
    waiting = subprocess.Popen(
        [sys.executable, "-c", script, waits + "time.sleep(600)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert waiting.stdout is not None and waiting.stdout.readline() == b"here\n"
    waiting.terminate()
    waiting.communicate(timeout=60)
    assert waiting.returncode == 143 and (tmp_path / "told").exists()


def test_lines_come_through_and_what_still_runs_is_stopped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun, seen = time.monotonic(), ""
    with beside(
        [[sys.executable, "-c", WAITS + "time.sleep(600)"], [sys.executable, "-c", "print('done')"]]
    ):
        while not {"here", "done"} <= set(seen.split()):
            assert time.monotonic() < begun + 60, seen
            time.sleep(0.05)
            seen += capsys.readouterr().out
    assert time.monotonic() < begun + 120


def test_weights_are_those_of_one_stage_after_the_other(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    for folder, options in (
        ("beside", [[]]),
        ("after", [["--upstream=encoder"], ["--upstream=lm"], []]),
    ):
        for option in options:
            done = run("train.py", *words(tmp_path / folder), *option)
            assert done.returncode == 0, done.out + done.err
    for name in ("beside", "after"):
        assert len(list((tmp_path / name).glob("*-tiny-*/checkpoint.pt"))) == 3
    for file in (tmp_path / "after").glob("*-tiny-*/checkpoint.pt"):
        other = StageCheckpoint.load(tmp_path / "beside" / file.parent.name / FILE)
        for key, value in StageCheckpoint.load(file).weights.items():
            torch.testing.assert_close(other.weights[key], value, atol=0, rtol=0)


def test_sigterm_stops_all_of_them_where_they_are(tmp_path: Path) -> None:
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
    cut = run("train.py", *words(tmp_path, "asr", *long), wait=False)
    while len(list(tmp_path.glob("*/last.ckpt"))) < min(2, len(os.sched_getaffinity(0))):
        assert cut.poll() is None, cut.stderr.read()
        time.sleep(0.02)
    os.kill(cut.pid, signal.SIGTERM)
    cut.communicate(timeout=60)
    assert cut.returncode == 143
    for folder in tmp_path.glob("*-tiny-*"):
        with exclusive(folder):
            assert (folder / "last.ckpt").exists() and not (folder / "summary.json").exists()
