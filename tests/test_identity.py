"""A run is taken up only with the settings, data and checkpoints that it was trained with."""

import json
import os
from pathlib import Path

import pytest

from configs.fingerprint import differences
from configs.loading import load_config, override
from configs.schema import Config
from datamodules.corpus_digest import contents_of
from lightning_modules.trainer.callbacks import LAST
from lightning_modules.trainer.identity import (
    check_identity,
    holds_training,
    inputs_of,
    save_identity,
)
from lightning_modules.trainer.run import train_stage
from lightning_modules.trainer.stage_graph import run_folder
from lightning_modules.trainer.summary import SUMMARY
from tests.conftest import SMALL_SIZES, TINY
from tests.small_runs import SHORT, refused, write_wav


@pytest.fixture(autouse=True)
def read_files_anew() -> None:
    contents_of.cache_clear()


def configured(folder: Path, *args: str, stage: str = "lm") -> Config:
    files = [TINY[0], f"configs/stage/{stage}.yaml"]
    return load_config([*files, *SHORT, f"run.dir={folder}", "run.id=exp1", *args])


def write_run(config: Config, file: str = SUMMARY) -> Path:
    """A run that has finished, or, with another file, was killed."""
    folder = run_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    save_identity(config, folder, inputs_of(config, {}))
    (folder / file).write_text('{"test/wer": 0.5}')
    return folder


def taken_up(config: Config) -> dict[str, float]:
    return train_stage(config, run_folder(config), {}, {})


def write_table(folder: Path, text: str = "close the door") -> Path:
    folder.mkdir(exist_ok=True)
    write_wav(folder / "0.wav", 0.5)
    manifest = folder / "manifest.jsonl"
    manifest.write_text(json.dumps({"audio": "0.wav", "text": text}) + "\n")
    contents_of.cache_clear()
    return manifest


def test_the_same_configuration_is_taken_up(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_run(configured(tmp_path))
    assert taken_up(configured(tmp_path, "trainer.threads=2", "wandb.mode=offline")) == {
        "test/wer": 0.5
    }
    assert capsys.readouterr().out == f"lm: already trained, {tmp_path / 'exp1'}\n"


def test_a_run_of_another_stage_is_refused(tmp_path: Path) -> None:
    write_run(configured(tmp_path, stage="encoder"))
    text = refused(tmp_path, "run.id=exp1", stage="lm")
    assert text.startswith(f"{tmp_path / 'exp1'} holds a run that was trained with stage.name=enc")
    assert "(now lm)" in text and "give another run.id, or delete" in text


@pytest.mark.parametrize("file", [SUMMARY, LAST, "checkpoint.pt"])
@pytest.mark.parametrize("change", ["optim.lr=0.5", "seed=7", "lm.num_layers=1", "lm.d_model=64"])
def test_other_settings_are_refused_by_name(file: str, change: str, tmp_path: Path) -> None:
    config = configured(tmp_path)
    write_run(config, file)
    name, _, value = change.partition("=")
    with pytest.raises(ValueError, match=f"trained with {name}=.* \\(now {value}\\); give another"):
        taken_up(override(config, [change]))
    assert "lr" in (tmp_path / "exp1" / "config.yaml").read_text()
    check_identity(config, tmp_path / "exp1", {})


def test_a_folder_without_a_training_is_free(tmp_path: Path) -> None:
    folder = write_run(configured(tmp_path))
    (folder / SUMMARY).unlink()
    assert not holds_training(folder)
    check_identity(configured(tmp_path, "seed=7"), folder, {})


def test_changed_threads_are_applied_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = write_run(configured(tmp_path), LAST)
    check_identity(configured(tmp_path, "data.num_workers=3"), folder, {})
    assert capsys.readouterr().out == f"{folder}: goes on with data.num_workers=3\n"


def test_a_finished_run_says_what_it_was_not_scored_with(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = write_run(configured(tmp_path))
    check_identity(configured(tmp_path, "data.test_people=people"), folder, {})
    assert "was not scored with data.test_people=people" in capsys.readouterr().out


def test_a_corrected_transcript_is_another_corpus(tmp_path: Path) -> None:
    manifest = write_table(tmp_path / "corpus")
    config = configured(tmp_path, f"data.path={manifest}")
    unnamed = configured(tmp_path, f"data.path={manifest}", "run.id=null")
    write_run(config)
    first = run_folder(unnamed)
    write_table(tmp_path / "corpus", "open the door")
    assert run_folder(unnamed) != first
    with pytest.raises(ValueError, match=r"other files of data.path: 1 files, .*\(now 1 files"):
        taken_up(config)
    write_table(tmp_path / "corpus")
    assert run_folder(unnamed) == first
    assert taken_up(config) == {"test/wer": 0.5}


@pytest.mark.parametrize("name", ["1.wav", "below/1.FLAC", "1.txt"])
def test_a_new_file_of_a_folder_is_another_corpus(name: str, tmp_path: Path) -> None:
    write_table(tmp_path)
    before = contents_of(str(tmp_path))
    for ignored in (".DS_Store", "notes.md"):
        (tmp_path / ignored).write_text("a")
    contents_of.cache_clear()
    assert contents_of(str(tmp_path)) == before
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("a")
    contents_of.cache_clear()
    after = contents_of(str(tmp_path))
    assert before is not None and after is not None
    assert (before.digest != after.digest) and after.num_files == 3


def test_a_corpus_that_has_moved_is_the_same(tmp_path: Path) -> None:
    write_table(tmp_path / "a")
    write_run(configured(tmp_path, f"data.path={tmp_path / 'a'}"))
    os.rename(tmp_path / "a", tmp_path / "b")
    contents_of.cache_clear()
    assert taken_up(configured(tmp_path, f"data.path={tmp_path / 'b'}")) == {"test/wer": 0.5}


def test_sounds_written_since_are_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_table(tmp_path / "corpus")
    config = configured(tmp_path, f"data.path={tmp_path / 'corpus'}")
    write_run(config)
    os.utime(tmp_path / "corpus" / "0.wav", (4e9, 4e9))
    contents_of.cache_clear()
    taken_up(config)
    assert "files of data.path were written since" in capsys.readouterr().out


def test_runs_without_a_recorded_corpus_keep_their_names(tmp_path: Path) -> None:
    names = [run_folder(configured(tmp_path, "run.id=null", f"seed={n}")).name for n in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    assert inputs_of(configured(tmp_path), {}) == {}


def test_a_run_of_an_earlier_version_is_found_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    manifest = write_table(tmp_path / "corpus")
    config = configured(tmp_path, "run.id=null", f"data.path={manifest}")
    # the name that a version without digests gave
    manifest.rename(tmp_path / "moved")
    contents_of.cache_clear()
    earlier = run_folder(config)
    (tmp_path / "moved").rename(manifest)
    contents_of.cache_clear()
    assert run_folder(config) != earlier
    earlier.mkdir()
    save_identity(config, earlier, {})
    (earlier / "inputs.json").unlink()
    (earlier / SUMMARY).write_text("{}")
    assert run_folder(config) == earlier
    taken_up(config)
    assert "did not note the files of data.path" in capsys.readouterr().out


def test_other_weights_in_a_named_folder_are_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "enc" / "checkpoint.pt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"first")
    config = configured(tmp_path)
    folder = write_run(config)
    save_identity(config, folder, inputs_of(config, {"runs/enc": checkpoint}))
    checkpoint.write_bytes(b"other")
    contents_of.cache_clear()
    with pytest.raises(ValueError, match="other files of the checkpoint of runs/enc"):
        train_stage(config, folder, {"runs/enc": checkpoint}, {})


@pytest.mark.parametrize("file", ["config.yaml", "inputs.json", SUMMARY])
def test_damaged_files_of_a_run_are_named(file: str, tmp_path: Path) -> None:
    config = configured(tmp_path)
    folder = write_run(config)
    (folder / file).write_text('{"a": [')
    with pytest.raises(ValueError, match=f"{file}.*delete") as caught:
        taken_up(config)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_settings_is_named(tmp_path: Path) -> None:
    config = configured(tmp_path)
    folder = write_run(config, LAST)
    (folder / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"holds last.ckpt, but .*delete last.ckpt"):
        taken_up(config)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_finished_run_of_others_is_taken_up(tmp_path: Path) -> None:
    folder = write_run(configured(tmp_path))
    folder.chmod(0o555)
    assert taken_up(configured(tmp_path)) == {"test/wer": 0.5}


def test_settings_that_a_run_does_not_use_make_no_difference() -> None:
    config = load_config([*TINY, *SMALL_SIZES])
    other = override(config, ["lora.rank=3", "duplex.max_wait_s=9", "run.id=a", "wandb.project=b"])
    assert differences(config, other) == ([], [])
    result, execution = differences(config, override(config, ["seed=3", "trainer.threads=3"]))
    assert [each.setting for each in result] == ["seed"]
    assert [each.setting for each in execution] == ["trainer.threads"]
