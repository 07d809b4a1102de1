"""A training as a trial of a sweep, and the lock on a run that two trials share."""

import json
import os
import re
import signal
import threading
from pathlib import Path

import pytest
import wandb
import yaml
from lightning.pytorch.utilities.exceptions import SIGTERMException

from configs.loading import load_config
from lightning_modules.trainer.locks import run_lock
from lightning_modules.trainer.slurm import slurm_plugins
from lightning_modules.trainer.sweep_trial import sweep_trial
from tests.conftest import TINY

ARGS = [*TINY, "run.sweep=grid", "optim.lr=0.5", "lm.pretrained=None", "_wandb={}"]


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the environment in which an agent starts a program; returns the folder of its trial."""
    # A client that was used before in this process has settings of its own.
    wandb.teardown()
    parameters = tmp_path / "config.yaml"
    parameters.write_text(yaml.safe_dump({"wandb_version": 1, "optim.lr": {"value": 0.5}}))
    variables = {
        "SWEEP_ID": "hub-1",
        "RUN_ID": "abc",
        "SWEEP_PARAM_PATH": str(parameters),
        "MODE": "disabled",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    return tmp_path / "grid-abc"


def read_record(folder: Path) -> dict:
    return json.loads((folder / "sweep.json").read_text())


def test_without_an_agent_only_none_is_changed_to_null() -> None:
    with sweep_trial(ARGS) as args:
        assert args == [*ARGS[:-2], "lm.pretrained=null"]


def test_a_trial_has_its_own_folder_and_prerequisites_stay_out_of_its_wandb_run(
    agent: Path,
) -> None:
    with sweep_trial([*ARGS, f"run.dir={agent.parent}"]) as args:
        record = read_record(agent)
        assert len(record.pop("point")) == 16
        assert record == {
            "sweep": "hub-1",
            "name": "grid",
            "parameters": {"optim.lr": 0.5},
            "state": "running",
        }
        config, prerequisite = load_config(args), load_config(args, "encoder")
        (agent / "summary.json").write_text('{"test/wer": 0.5}')
    assert (config.run.id, config.run.sweep, config.wandb.mode) == ("grid-abc", "grid", "auto")
    assert (prerequisite.run.id, prerequisite.run.sweep) == (None, None)
    assert prerequisite.wandb.mode == "disabled"
    assert read_record(agent)["state"] == "finished"
    assert os.environ["WANDB_SWEEP_ID"] == "hub-1"


def train_trial(agent: Path, run_id: str, *overrides: str) -> Path:
    """Let an agent start a trial, as if trained at once; returns the folder of its run."""
    os.environ["WANDB_RUN_ID"] = run_id
    wandb.teardown()
    with sweep_trial([*ARGS, f"run.dir={agent.parent}", *overrides]) as args:
        folder = agent.parent / load_config(args).run.id
        (folder / "summary.json").write_text('{"test/wer": 0.5}')
    return folder


def test_a_point_is_found_again_by_its_configuration(agent: Path) -> None:
    first = train_trial(agent, "first")
    assert first.name == "grid-first"
    assert train_trial(agent, "second") == first
    assert read_record(first)["state"] == "finished"
    # What the stages before it are trained with makes another point, as does what is scored.
    others = ["optim.clip=3", "stages.encoder.optim.lr=0.25", "data.test_size=3", "run.sweep=b"]
    for number, override in enumerate(others):
        assert train_trial(agent, f"other{number}", override).name.endswith(f"-other{number}")


def test_a_trial_with_invalid_parameters_fails_with_an_error(agent: Path) -> None:
    with (
        pytest.raises(ValueError),
        sweep_trial([*ARGS, f"run.dir={agent.parent}", "optim.lrr=1"]) as args,
    ):
        load_config(args)
    record = read_record(agent)
    assert record["state"] == "failed"
    assert "Did you mean 'lr'" in record["error"]


def test_nested_parameters_have_dotted_names(agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = agent.parent / "grid.yaml"
    file.write_text("parameters: {optim: {parameters: {lr: {values: [0.5]}}}, a: {value: {b: 1}}}")
    monkeypatch.setenv("DUPLEXMAMBA_SWEEP", str(file))
    values = {"optim": {"value": {"lr": 0.5}}, "a": {"value": {"b": 1}}}
    (agent.parent / "config.yaml").write_text(yaml.safe_dump(values))
    with sweep_trial([*ARGS, f"run.dir={agent.parent}"]):
        (agent / "summary.json").write_text("{}")
    assert read_record(agent)["parameters"] == {"optim.lr": 0.5, "a": {"b": 1}}


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"test/wer": float("nan")}, "test/wer=nan: .*diverged"),
        ({"test/cer": 1}, "one of test/cer"),
    ],
)
def test_a_trial_without_a_finite_score_has_failed(
    agent: Path, monkeypatch: pytest.MonkeyPatch, scores: dict, message: str
) -> None:
    file = agent.parent / "grid.yaml"
    file.write_text("metric: {name: test/wer, goal: minimize}")
    monkeypatch.setenv("DUPLEXMAMBA_SWEEP", str(file))
    with (
        pytest.raises(ValueError, match=message),
        sweep_trial([*ARGS, f"run.dir={agent.parent}"]),
    ):
        (agent / "summary.json").write_text(json.dumps(scores))
    record = read_record(agent)
    assert record["state"] == "failed" and re.search(message, record["error"])


def test_sigterm_before_training_preempts_a_trial(agent: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SIGTERMException), sweep_trial([*ARGS, f"run.dir={agent.parent}"]):
        os.kill(os.getpid(), signal.SIGTERM)
    assert read_record(agent)["state"] == "preempted"
    assert signal.getsignal(signal.SIGTERM) == handler


def test_during_training_the_trainer_handles_sigterm(agent: Path) -> None:
    with sweep_trial([*ARGS, f"run.dir={agent.parent}"]):
        handler_of_trial = signal.getsignal(signal.SIGTERM)
        received = []

        def handler_of_trainer(signum: int, frame: object) -> None:
            received.append(signum)
            handler_of_trial(signum, frame)

        signal.signal(signal.SIGTERM, handler_of_trainer)
        os.kill(os.getpid(), signal.SIGTERM)
        (agent / "summary.json").write_text("{}")
    assert received == [signal.SIGTERM] and read_record(agent)["state"] == "finished"


def test_lightning_does_not_requeue(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slurm_plugins() == []
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    assert [environment.auto_requeue for environment in slurm_plugins()] == [False]


def test_a_client_that_died_first_leaves_a_preemption(
    agent: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def die(run: wandb.Run) -> None:
        raise ConnectionResetError("gone")

    with pytest.raises(SIGTERMException), sweep_trial([*ARGS, f"run.dir={agent.parent}"]):
        monkeypatch.setattr(type(wandb.run), "mark_preempting", die)
        os.kill(os.getpid(), signal.SIGTERM)
    assert read_record(agent)["state"] == "preempted"
    assert "W&B was not told of the preemption: gone" in capsys.readouterr().out


def test_one_process_at_a_time_trains_in_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = []

    def second() -> None:
        with run_lock(tmp_path / "run"):
            order.append("second")

    with run_lock(tmp_path / "run"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.7)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and "waiting for another process" in capsys.readouterr().out
