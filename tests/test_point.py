"""What a program does as a point of a sweep, and that what two points share is trained by one."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import wandb
import yaml
from lightning.pytorch.utilities.exceptions import SIGTERMException

from configs.loading import load_config
from lightning_modules.trainer.hardware import exclusive
from lightning_modules.trainer.sweep_trial import scheduler, sweep_point
from tests.conftest import TINY

WORDS = [*TINY, "run.sweep=grid", "optim.lr=0.5", "lm.pretrained=None", "_wandb={}"]


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an agent gives to a program; returns the folder of its point."""
    wandb.teardown()  # a client that was used before in this process has settings of its own
    parameters = tmp_path / "config.yaml"
    parameters.write_text(yaml.safe_dump({"wandb_version": 1, "optim.lr": {"value": 0.5}}))
    given = {
        "SWEEP_ID": "hub-1",
        "RUN_ID": "abc",
        "SWEEP_PARAM_PATH": str(parameters),
        "MODE": "disabled",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    return tmp_path / "grid-abc"


def noted(folder: Path) -> dict:
    return json.loads((folder / "sweep.json").read_text())


def test_without_an_agent_words_are_only_made_plain() -> None:
    with sweep_point(WORDS) as words:
        assert words == [*WORDS[:-2], "lm.pretrained=null"]


def test_a_point_has_its_own_folder_and_leaves_the_stages_beneath_out_of_its_wandb_run(
    agent: Path,
) -> None:
    with sweep_point([*WORDS, f"run.dir={agent.parent}"]) as words:
        assert noted(agent) == {
            "sweep": "hub-1",
            "name": "grid",
            "parameters": {"optim.lr": 0.5},
            "state": "running",
        }
        config, upstream = load_config(words), load_config(words, "encoder")
        (agent / "summary.json").write_text('{"test/wer": 0.5}')
    assert (config.run.id, config.run.sweep, config.wandb.mode) == ("grid-abc", "grid", "auto")
    assert (upstream.run.id, upstream.run.sweep, upstream.wandb.mode) == (None, None, "disabled")
    assert noted(agent)["state"] == "finished" and os.environ["WANDB_SWEEP_ID"] == "hub-1"


def test_a_point_that_cannot_be_is_failed_and_says_why(agent: Path) -> None:
    with (
        pytest.raises(ValueError),
        sweep_point([*WORDS, f"run.dir={agent.parent}", "optim.lrr=1"]) as words,
    ):
        load_config(words)
    assert noted(agent)["state"] == "failed" and "Did you mean 'lr'" in noted(agent)["error"]


def test_sigterm_before_training_preempts_a_point(agent: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SIGTERMException), sweep_point([*WORDS, f"run.dir={agent.parent}"]):
        os.kill(os.getpid(), signal.SIGTERM)
    assert noted(agent)["state"] == "preempted" and signal.getsignal(signal.SIGTERM) == before


def test_while_a_trainer_is_at_work_sigterm_is_left_to_it(agent: Path) -> None:
    with sweep_point([*WORDS, f"run.dir={agent.parent}"]):
        ours, heard = signal.getsignal(signal.SIGTERM), []

        def trainers(signum: int, frame: object) -> None:
            heard.append(signum)
            ours(signum, frame)

        signal.signal(signal.SIGTERM, trainers)
        os.kill(os.getpid(), signal.SIGTERM)
        (agent / "summary.json").write_text("{}")
    assert heard == [signal.SIGTERM] and noted(agent)["state"] == "finished"


def test_under_an_agent_lightning_leaves_the_requeue_to_it(
    agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scheduler() == []
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "sweep")
    assert [environment.auto_requeue for environment in scheduler()] == [False]
    monkeypatch.delenv("WANDB_SWEEP_ID")
    assert scheduler() == []


def test_one_process_at_a_time_trains_in_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = []

    def second() -> None:
        with exclusive(tmp_path / "run"):
            order.append("second")

    with exclusive(tmp_path / "run"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.7)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and "waiting for another process" in capsys.readouterr().out
