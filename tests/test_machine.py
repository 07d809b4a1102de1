"""What a machine may lack: symbolic links, locks, a network, whole checkpoints, a writable folder."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import filelock
import pytest
import torch
import wandb

from configs.loading import override
from configs.schema import Config
from lightning_modules.trainer import logging as logs
from lightning_modules.trainer.callbacks import LAST, PREVIOUS, ResumeCheckpoint
from lightning_modules.trainer.checkpoint import write_atomically
from lightning_modules.trainer.exits import exit_cleanly
from lightning_modules.trainer.hardware import started_by_launcher
from lightning_modules.trainer.locks import run_lock
from lightning_modules.trainer.resume import resume_point
from lightning_modules.trainer.run import point_latest


def no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def test_latest_is_replaced_whatever_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to("deleted")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        point_latest(tmp_path / name)
        assert (tmp_path / "latest").resolve() == tmp_path / name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "latest"]


def test_a_folder_in_place_of_latest_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "latest").mkdir()
    (tmp_path / "a").mkdir()
    point_latest(tmp_path / "a")
    assert f"RUN={tmp_path / 'a'}" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "latest"]


def test_a_file_system_without_links_gives_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(os, "symlink", no_links)
    point_latest(tmp_path / "a")
    assert f"RUN={tmp_path / 'a'}" in capsys.readouterr().out


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gives_a_note(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with run_lock(tmp_path / "a"):
        assert (tmp_path / "a").is_dir()
    assert "has no locks" in capsys.readouterr().out


def test_the_checkpoint_before_the_last_one_is_kept(tmp_path: Path) -> None:
    callback = ResumeCheckpoint(tmp_path / LAST, 0)
    trainer = SimpleNamespace(is_global_zero=True)
    for step in (1, 2, 3):
        content = {"global_step": step}
        trainer.save_checkpoint = lambda path, content=content: write_atomically(content, path)
        callback._save(trainer)
    assert resume_point(tmp_path) == (tmp_path / LAST, 3)
    assert torch.load(tmp_path / PREVIOUS)["global_step"] == 2


@pytest.mark.parametrize("damage", [bytes(1000), b"", None])
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    damage: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_atomically({"global_step": 7}, tmp_path / PREVIOUS)
    if damage is None:
        # killed between the two steps of writing
        assert resume_point(tmp_path) == (tmp_path / PREVIOUS, 7)
        return
    (tmp_path / LAST).write_bytes(damage)
    assert resume_point(tmp_path) == (tmp_path / PREVIOUS, 7)
    assert f"{tmp_path / LAST} cannot be read" in capsys.readouterr().out


def test_a_single_damaged_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    assert resume_point(tmp_path) is None
    (tmp_path / LAST).write_bytes(bytes(1000))
    with pytest.raises(ValueError, match=r"last.ckpt cannot be read .* delete it") as caught:
        resume_point(tmp_path)
    assert "\n" not in str(caught.value)


class Refusing:
    """A W&B client that can only work offline."""

    def __init__(self) -> None:
        self.modes: list[str] = []

    def init(self, **values: object) -> object:
        self.modes.append(str(values["mode"]))
        if values["mode"] == "online":
            raise wandb.errors.CommError("Run initialization has timed out\nmore lines")
        return SimpleNamespace(id="x")

    def login(self, **_: object) -> bool:
        return True


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_without_a_way_to_the_server_a_run_is_logged_offline(
    mode: str,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    client = Refusing()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "init", client.init)
    monkeypatch.setattr(wandb, "login", client.login)
    monkeypatch.setattr(logs, "WandbLogger", lambda experiment: experiment)
    assert logs.wandb_logger(override(config, [f"wandb.mode={mode}"]), tmp_path) is not None
    assert client.modes == ["online", "offline"]
    out = capsys.readouterr().out
    assert "timed out; logging offline" in out and out.count("\n") == 1


def test_a_key_that_the_client_refuses_means_offline(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(**_: object) -> bool:
        raise wandb.errors.AuthenticationError("API key must have 40+ characters")

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", refuse)
    assert logs.wandb_mode(config) == "offline"
    assert "40+ characters; logging offline" in capsys.readouterr().out


def test_wandb_mode_of_the_environment_is_checked(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert logs.wandb_mode(config) == "offline"
    monkeypatch.setenv("WANDB_MODE", "on")
    with pytest.raises(ValueError, match="WANDB_MODE=on: need one of online, offline"):
        logs.wandb_mode(config)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR])
def test_errors_of_the_file_system_are_one_sentence(
    number: int, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="2"), exit_cleanly():
        raise OSError(number, os.strerror(number), "runs/a/config.yaml")
    err = capsys.readouterr().err
    assert err.startswith("error: runs/a/config.yaml: ") and err.count("\n") == 1 and ";" in err


def test_srun_on_the_path_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "srun"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    # Lightning warns, and the tests turn warnings into errors
    assert not started_by_launcher()


@pytest.mark.parametrize("name", ["SLURM_NTASKS_PER_NODE", "SLURM_JOB_NAME", None])
def test_tasks_of_slurm_are_given_for_each_node(
    name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    if name is None:
        with pytest.raises(ValueError, match="SLURM_NTASKS=4: .*--ntasks-per-node=4"):
            started_by_launcher()
        return
    monkeypatch.setenv(name, "4" if name == "SLURM_NTASKS_PER_NODE" else "interactive")
    assert started_by_launcher() == (name == "SLURM_NTASKS_PER_NODE")
