"""Stage checkpoints: complete files, averaged weights, and refusal of weights that do not fit."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from configs.loading import override
from configs.schema import Config
from duplexmamba.models.speech_lm import SpeechEncoder, SpeechLM
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.encoder import CTCRecogniser, EncoderStage
from lightning_modules.speech import SpeechStage
from lightning_modules.trainer.averaging import WeightAveraging
from lightning_modules.trainer.checkpoint import (
    StageCheckpoint,
    checkpoint_file,
    load_ctc_head,
    load_parts,
    write_atomically,
)
from lightning_modules.trainer.exits import exit_cleanly


def test_a_checkpoint_is_loaded_as_it_was_saved(config: Config, tmp_path: Path) -> None:
    weights = SpeechEncoder(config.model).state_dict()
    StageCheckpoint(config, None, weights).save(tmp_path / "checkpoint.pt")
    loaded = StageCheckpoint.load(tmp_path / "checkpoint.pt")
    assert loaded.config == config and loaded.tokenizer is None
    assert all(torch.equal(loaded.weights[name], weight) for name, weight in weights.items())


def test_a_checkpoint_under_its_earlier_name_is_found(config: Config, tmp_path: Path) -> None:
    assert checkpoint_file(tmp_path).name == "checkpoint.pt"
    weights = {"encoder.weight": torch.ones(1)}
    StageCheckpoint(config, None, weights).save(tmp_path / "handover.pt")
    assert checkpoint_file(tmp_path).name == "handover.pt"
    for path in (tmp_path, tmp_path / "checkpoint.pt", tmp_path / "handover.pt"):
        assert StageCheckpoint.load(path).weights == weights
    StageCheckpoint(config, None, {}).save(tmp_path / "checkpoint.pt")
    assert checkpoint_file(tmp_path).name == "checkpoint.pt"
    assert StageCheckpoint.load(tmp_path).weights == {}


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no checkpoint at"), (b"junk", "not a readable checkpoint")]
)
def test_a_missing_or_broken_file_says_what_to_do(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content:
        (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        StageCheckpoint.load(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize(
    "overrides", [["encoder.d_model=48"], ["encoder.num_layers=3"], ["encoder.num_layers=1"]]
)
def test_weights_of_another_shape_are_refused(config: Config, overrides: list[str]) -> None:
    checkpoint = StageCheckpoint(config, None, SpeechEncoder(config.model).state_dict())
    with pytest.raises(ValueError, match="checkpoint of encoder does not fit"):
        load_parts(
            SpeechEncoder(override(config, overrides).model),
            checkpoint,
            ["frontend", "encoder"],
            "encoder",
        )


def test_only_the_named_parts_are_loaded(config: Config) -> None:
    checkpoint = StageCheckpoint(config, None, SpeechEncoder(config.model).state_dict())
    model = SpeechEncoder(config.model)
    before = model.frontend.linear.weight.clone()
    load_parts(model, checkpoint, ["encoder"], "encoder")
    assert torch.equal(model.frontend.linear.weight, before)
    assert torch.equal(
        model.encoder.blocks[0].ffn1[1].weight, checkpoint.weights["encoder.blocks.0.ffn1.1.weight"]
    )


def test_a_ctc_connector_starts_from_the_encoders_ctc_head(config: Config) -> None:
    model, trained = (
        SpeechLM(override(config, ["connector.kind=ctc"]).model),
        CTCRecogniser(config.model),
    )
    load_ctc_head(model, StageCheckpoint(config, None, trained.state_dict()), "encoder")
    assert torch.equal(model.connector.head.weight, trained.ctc.weight)
    assert torch.equal(model.connector.head.bias, trained.ctc.bias)
    with pytest.raises(ValueError, match="checkpoint of asr has no CTC head.*stage.init.encoder"):
        load_ctc_head(model, StageCheckpoint(config, None, model.state_dict()), "asr")


def test_the_average_is_the_mean_of_the_last_snapshots_also_after_resuming(config: Config) -> None:
    config = override(
        config, ["trainer.max_steps=10", "trainer.average_every_steps=3", "trainer.average_last=2"]
    )
    module = EncoderStage(config, CTCRecogniser(config.model), None)
    weight = module.model.ctc.bias
    average = WeightAveraging(config)
    for step in range(1, 11):
        with torch.no_grad():
            weight.fill_(float(step))
        for _ in range(2):  # two batches to an update: it counts once
            trainer = SimpleNamespace(global_step=step, is_global_zero=True, world_size=1)
            average.on_train_batch_end(trainer, module)
        if step == 8:  # killed and resumed between the snapshots of updates 7 and 10
            state, average = average.state_dict(), WeightAveraging(config)
            average.load_state_dict(state)
    average.on_train_end(trainer, module)
    assert weight[0] == (7 + 10) / 2


def test_the_first_rank_alone_keeps_sums(config: Config) -> None:
    config = override(config, ["trainer.max_steps=4", "trainer.average_every_steps=1"])
    module = EncoderStage(config, CTCRecogniser(config.model), None)
    average = WeightAveraging(config)
    average.load_state_dict({"sum": {"ctc.bias": torch.ones(3)}, "count": 1, "last_step": 3})
    trainer = SimpleNamespace(global_step=4, is_global_zero=False)
    average.on_train_start(trainer, module)
    average.on_train_batch_end(trainer, module)
    assert (average.count, average.sum) == (2, {})


def test_a_resume_checkpoint_has_no_frozen_weights(config: Config) -> None:
    """Those of the language model in stage asr are most of it; a resumed stage has them again."""
    tokenizer = Tokenizer.train(["some words"] * 3)
    module = SpeechStage(config, SpeechLM(config.model), tokenizer)
    checkpoint = {"state_dict": module.state_dict()}
    complete = dict(checkpoint["state_dict"])
    module.on_save_checkpoint(checkpoint)
    saved = checkpoint["state_dict"]
    parts = {name.split(".")[1] for name in saved}
    assert parts == {"features", "frontend", "encoder", "connector"}
    module.on_load_checkpoint(checkpoint)
    assert saved.keys() == complete.keys()
    assert all(torch.equal(saved[name], weight) for name, weight in complete.items())


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    write_atomically({"a": 1}, path)
    with pytest.raises(AttributeError):
        write_atomically({"a": lambda: None}, path)
    assert torch.load(path) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["x.pt"]


def test_a_full_disk_is_reported_in_one_sentence(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="1"), exit_cleanly(), open("/dev/full", "wb") as file:
        torch.save({"a": torch.zeros(1000)}, file)
    assert "disk full" in capsys.readouterr().err


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(OSError), exit_cleanly():
        raise OSError(errno.EBADF, "no")
