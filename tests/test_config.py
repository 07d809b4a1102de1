"""Configuration: every YAML file loads, errors have a remedy, equal experiments have equal names."""

from pathlib import Path

import pytest

from configs.fingerprint import fingerprint
from configs.loading import from_dict, load_config, override, to_dict
from configs.recipes import STAGES, stage_file
from duplexmamba.models.speech_lm import SpeechEncoder
from duplexmamba.models.timing import FrameTiming
from tests.conftest import TINY

PRESETS = sorted(Path("configs/preset").glob("*.yaml"))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_every_preset_loads_with_every_stage(preset: Path, stage: str) -> None:
    config = load_config([str(preset), str(stage_file(stage))])
    assert (config.preset, config.stage.name) == (preset.stem, stage)


def test_files_have_a_purpose_and_a_command_and_are_short() -> None:
    for path in [
        *PRESETS,
        *Path("configs/stage").glob("*.yaml"),
        *Path("configs/data").glob("*.yaml"),
    ]:
        lines = path.read_text().splitlines()
        # one screen
        assert lines[0].startswith("# ") and len(lines) <= 40, path
        assert any("make train" in line for line in lines if line.startswith("#")), path


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["optim.lrr=1"], "Did you mean 'lr'"),
        (["encodre.d_model=1"], "Did you mean 'encoder'"),
        (["configs/preset/tinny.yaml"], "Did you mean 'configs/preset/tiny.yaml'"),
        (["configs/stage/asrr.yaml"], "Did you mean 'configs/stage/asr.yaml'"),
        (["stages.asrr.optim.lr=1"], "Did you mean 'asr'"),
        (["optim.lr=fast"], "optim.lr"),
        (["encoder.context=fulll"], "expected one of"),
        (["data.min_s=40"], "data.min_s=40.0 and data.max_s=20.0"),
        (["data.batch_s=1"], "data.batch_s=1.0 is less than data.max_s=20.0"),
        (["data.max_bad_share=2"], "between 0 and 1"),
        (["data.augment.snr_db=[9,1]"], "give \\[low, high\\]"),
        (["trainer.max_steps=0"], "at least 1"),
        (["trainer.strategy=deepspeed"], "expected one of"),
        (["encoder.conv_kernel=8"], "must be odd"),
        (["encoder.mixer=atention"], "encoder.mixer: .*Did you mean 'attention'"),
        (["encoder.num_heads=0"], "encoder.num_heads=0: must be at least 1"),
        (["encoder.left_context_ms=-1"], "encoder.left_context_ms=-1: cannot be negative"),
        (["connector.merge_threshold=2"], "connector.merge_threshold=2.0: a cosine"),
        (["features.window_samples=100"], "shorter than"),
        (["features.num_mels=42"], "multiple of 4"),
        (["stage.trained=[encodr]"], "Did you mean 'encoder'"),
        (["configs/stage/state.yaml", "encoder.context=full"], "encoder.context=full .*=slice"),
        (
            ["configs/stage/state.yaml", "encoder.context=slice"],
            "duplex.slice_ms=200 is no multiple .*=1000",
        ),
        (
            ["configs/stage/state.yaml", "duplex.slice_ms=300"],
            "duplex.slice_ms=300 ms.*multiple of 200",
        ),
        (
            [
                "configs/stage/state.yaml",
                "encoder.context=causal_lookahead",
                "encoder.slice_ms=200",
            ],
            r"train_slice_ms=\[200.0, 2000.0\].*stages.state.encoder.train_slice_ms=\[200,200\]",
        ),
        (["encoder.train_slice_ms=[900,300]"], "encoder.train_slice_ms=.*give \\[low, high\\]"),
    ],
)
def test_an_error_names_the_field_and_the_remedy(args: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config([*TINY, *args])


@pytest.mark.parametrize("ms", [0, 100, 250])
def test_a_slice_has_a_whole_number_of_embeddings(ms: int) -> None:
    with pytest.raises(ValueError, match=f"encoder.slice_ms={ms} ms.*multiple of 200"):
        SpeechEncoder(load_config([*TINY, f"encoder.slice_ms={ms}"]).model)


def test_the_error_for_a_missing_value_names_its_key() -> None:
    with pytest.raises(ValueError, match="stage.name"):
        load_config(["configs/preset/tiny.yaml"])


def test_a_file_that_is_not_yaml_is_rejected(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("optim: {lr: 1")
    with pytest.raises(ValueError, match="broken.yaml is not YAML"):
        load_config([*TINY, str(broken)])


def test_overrides_apply_to_prerequisite_stages_if_they_hold_for_all() -> None:
    overrides = ["encoder.d_model=64", "optim.lr=7", "stages.lm.optim.lr=3"]
    requested = load_config([*TINY, *overrides])
    upstream = load_config([*TINY, *overrides], "lm")
    assert (requested.encoder.d_model, upstream.encoder.d_model) == (64, 64)
    assert (requested.optim.lr, upstream.optim.lr) == (7, 3)


def test_hardware_holds_for_prerequisite_stages_and_the_course_of_the_training_does_not() -> None:
    hardware = [
        "trainer.accelerator=cpu",
        "trainer.devices=8",
        "trainer.num_nodes=2",
        "trainer.strategy=fsdp",
        "trainer.precision=bf16-mixed",
        "trainer.matmul_precision=highest",
        "trainer.activation_checkpointing=true",
    ]
    course = ["trainer.max_steps=7", "trainer.accumulate=4", "trainer.valid_every_steps=5"]
    requested = load_config([*TINY, *hardware, *course]).trainer
    plain, upstream = (
        load_config(TINY, "encoder"),
        load_config([*TINY, *hardware, *course], "encoder"),
    )
    for word in hardware:
        field = word.partition("=")[0].removeprefix("trainer.")
        assert getattr(upstream.trainer, field) == getattr(requested, field)
        assert getattr(upstream.trainer, field) != getattr(plain.trainer, field)
    for field in ("max_steps", "accumulate", "valid_every_steps"):
        assert getattr(upstream.trainer, field) == getattr(plain.trainer, field)
    own = load_config([*TINY, *hardware, "stages.encoder.trainer.devices=1"], "encoder")
    assert own.trainer.devices == 1


def test_fingerprint_depends_on_the_experiment_and_not_on_the_machine() -> None:
    plain = fingerprint(load_config(TINY))
    assert plain == fingerprint(
        load_config([*TINY, "data.num_workers=3", "run.dir=elsewhere", "wandb.mode=disabled"])
    )
    assert plain != fingerprint(load_config([*TINY, "seed=2"]))
    assert (
        len(
            {
                plain,
                fingerprint(load_config(TINY), ["lm-a"]),
                fingerprint(load_config(TINY), ["lm-b"]),
            }
        )
        == 3
    )


def test_a_configuration_survives_conversion_to_a_dict() -> None:
    config = load_config(TINY)
    assert from_dict(to_dict(config)) == config
    assert override(config, ["optim.lr=0.5"]).optim.lr == 0.5


def test_frame_timing_divides_time_exactly() -> None:
    timing = FrameTiming.of(
        load_config(["configs/preset/paper.yaml", "configs/stage/asr.yaml"]).model
    )
    assert (
        timing.samples_per_encoder_frame,
        timing.samples_per_token,
    ) == (640, 3200)
    assert timing.token_ms == 200


def test_the_last_setting_of_a_command_that_holds_for_a_stage_wins() -> None:
    args = [*TINY, "data.train_size=80", "stages.asr.data.train_size=7"]
    assert load_config(args, "lm").data.train_size == 80
    assert load_config(args, "asr").data.train_size == 7
    # the arguments of a trial follow those of the sweep's command
    assert load_config([*args, "data.train_size=9"], "asr").data.train_size == 9
    kinds = [*TINY, "lm.num_layers=4", "kinds.mamba2.lm.num_layers=2"]
    assert load_config(kinds).lm.num_layers == 4
    assert load_config([*kinds, "lm.kind=mamba2"]).lm.num_layers == 2
    assert load_config([*kinds, "lm.kind=mamba2", "lm.num_layers=3"]).lm.num_layers == 3


def test_the_command_line_holds_before_differences_of_files(tmp_path: Path) -> None:
    file = tmp_path / "differences.yaml"
    file.write_text("stages: {asr: {data: {train_size: 7, test_size: 5}}}")
    config = load_config([*TINY, str(file), "data.train_size=80"], "asr")
    assert (config.data.train_size, config.data.test_size) == (80, 5)
