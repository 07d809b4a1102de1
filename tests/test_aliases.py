"""Configurations, checkpoints and runs of the first version, under the present names.

tests/data/first_version holds runs that the first version made, with very small sizes and one update
for each stage.
"""

import shutil
from pathlib import Path

import pytest
import yaml

from configs import aliases
from configs.aliases import RENAMED_KEYS, RENAMED_VALUES, modernise, to_earlier_names
from configs.fingerprint import earlier_fingerprint
from configs.loading import base_values, from_dict, load_config, to_dict
from lightning_modules.trainer.checkpoint import StageCheckpoint, checkpoint_file
from tests.conftest import TINY
from train import main

FIRST_VERSION = Path("tests/data/first_version")
STATE_RUN = next(FIRST_VERSION.glob("state-*"))
EARLIER_OVERRIDES = [
    "encoder.d_model=16", "encoder.num_layers=1", "encoder.d_ffn=16", "encoder.conv_kernel=3",
    "encoder.num_heads=2", "features.num_mels=8", "frontend.channels=[2,2]", "connector.d_hidden=8",
    "lm.d_model=16", "lm.num_layers=1", "lm.d_state=4", "data.batch_s=25", "data.test_size=2",
    "data.valid_size=2", "data.test_dialogues=2", "data.valid_dialogues=2", "data.num_workers=0",
    "data.batch_texts=4", "data.batch_dialogues=2", "dialogue.settle_ms=140",
    "duplex.response_above=0.6", "dialogue.shares.cut_question=0.2", "encoder.context=carried",
    "stage.utterances=1", "wandb.mode=disabled", "trainer.max_steps=1",
    "trainer.cpu_processes=1", "stages.encoder.trainer.max_steps=1",
    "stages.lm.trainer.max_steps=1", "stages.asr.trainer.max_steps=1",
    "stages.instruct.trainer.max_steps=1", "stages.asr.trainer.cpu_processes=1",
]  # fmt: skip
"""The command that made the runs, under the names of its time."""


@pytest.fixture(autouse=True)
def _nothing_printed_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliases, "_printed", set())


def test_every_alias_names_a_setting_that_exists() -> None:
    base = base_values()
    for name in [*RENAMED_KEYS.values(), *RENAMED_VALUES]:
        section = base
        for part in name.split("."):
            assert part in section, name
            section = section[part]


def test_earlier_names_load_and_the_new_ones_are_printed_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    overrides = [
        "dialogue.settle_ms=140",
        "stages.asr.data.stuck_after_s=7",
        "encoder.context=carried",
    ]
    config = load_config([*TINY, *overrides])
    load_config([*TINY, *overrides])
    assert config.dialogue.endpoint_silence_ms == 140
    assert config.data.worker_timeout_s == 7
    assert config.encoder.context == "causal"
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "configuration: dialogue.settle_ms=140 is now dialogue.endpoint_silence_ms=140",
        "configuration: stages.asr.data.stuck_after_s=7 is now stages.asr.data.worker_timeout_s=7",
        "configuration: encoder.context=carried is now encoder.context=causal",
    ]


def test_earlier_names_in_files_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("stages: {asr: {trainer: {gradient_checkpointing: true}}}\n")
    assert load_config([*TINY, str(file)]).trainer.activation_checkpointing
    assert "trainer.activation_checkpointing" in capsys.readouterr().err


def test_to_earlier_names_is_the_inverse_of_modernise() -> None:
    present = to_dict(load_config(TINY))
    earlier = to_earlier_names(present)
    assert "settle_ms" in earlier["dialogue"] and earlier["encoder"]["context"] == "carried"
    assert from_dict(earlier) == load_config(TINY)
    # settings that the first version did not have are left out
    del present["dialogue"]["echo_db"], present["dialogue"]["timing"]
    for kind in ("out_of_grammar", "small_talk", "stop", "correction"):
        del present["dialogue"]["shares"][kind]
    assert modernise(earlier)["dialogue"] == present["dialogue"]


@pytest.mark.parametrize("run", sorted(FIRST_VERSION.iterdir()), ids=lambda run: run.name)
def test_configurations_of_earlier_runs_load(run: Path) -> None:
    config = from_dict(yaml.safe_load((run / "config.yaml").read_text()))
    assert config.encoder.context == "causal" and config.dialogue.endpoint_silence_ms == 140


def test_checkpoints_of_earlier_runs_load() -> None:
    checkpoint = StageCheckpoint.load(checkpoint_file(STATE_RUN))
    assert checkpoint.config.stage.data == "dialogues"
    assert checkpoint.config.stage.utterances_per_dialogue == 1
    assert checkpoint.tokenizer is not None


def test_fingerprint_of_earlier_runs_without_prerequisites() -> None:
    for stage in ("encoder", "lm"):
        config = load_config([*TINY, *EARLIER_OVERRIDES], stage)
        [run] = FIRST_VERSION.glob(f"{stage}-*")
        assert run.name == f"{stage}-tiny-{earlier_fingerprint(config)}"


def test_finished_runs_of_the_first_version_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(FIRST_VERSION, runs)
    names = sorted(path.name for path in runs.iterdir())
    files = ["configs/preset/tiny.yaml", "configs/stage/state.yaml"]
    summary = main([*files, *EARLIER_OVERRIDES, f"run.dir={runs}"])
    assert "test/state_macro_f1" in summary
    assert sorted(path.name for path in runs.iterdir()) == names
    assert f"state: already trained, {runs / STATE_RUN.name}" in capsys.readouterr().out
