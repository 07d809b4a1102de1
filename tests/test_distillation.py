"""Distillation in stage encoder: moments, loss, features of the teacher, training and resuming."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.fingerprint import fingerprint
from configs.loading import load_config
from configs.schema import Config
from datamodules.batching import SpeechBatch, collate, pad_signals
from datamodules.corpora import Corpora
from duplexmamba.models.pretrained_encoders import PRETRAINED_ENCODERS
from duplexmamba.streaming.padded import Padded
from lightning_modules.assembly import NUM_NORM_UTTERANCES, build
from lightning_modules.distillation import DELAY_MS, Distillation, interpolate
from lightning_modules.encoder import CTCRecogniser, EncoderStage
from lightning_modules.lm import TextModel
from lightning_modules.stage import StageModule
from lightning_modules.trainer.checkpoint import StageCheckpoint
from lightning_modules.trainer.teacher_items import TeacherItems, build_teacher
from tests.conftest import SMALL_SIZES, TINY
from tests.small_runs import SHORT
from tests.test_pretrained_encoder import fail_to_encode, global_encoder, replace_encoder
from train import main

TEACHER = "moonshine-tiny-en"
INFO = PRETRAINED_ENCODERS[TEACHER]
STAGE = [TINY[0], "configs/stage/encoder.yaml"]
UNIT = 3200
"""Samples of a speech embedding of the preset."""


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_encoder(monkeypatch, global_encoder)


def load(*overrides: str) -> Config:
    return load_config([*STAGE, *SMALL_SIZES, f"stage.teacher={TEACHER}", *overrides])


def interpolated_by_hand(rows: list[np.ndarray], moments: list[int], hop: int) -> np.ndarray:
    result = []
    for row in rows:
        frames = []
        for moment in moments:
            position = min(max(moment / hop, 0.0), len(row) - 1.0)
            before = int(position)
            after = min(before + 1, len(row) - 1)
            share = position - before
            frames.append((1 - share) * row[before] + share * row[after])
        result.append(frames)
    return np.array(result)


def test_interpolation_equals_one_by_hand_and_ignores_padding() -> None:
    rows = [np.random.default_rng(n).normal(size=(length, 3)) for n, length in enumerate((9, 1, 4))]
    values = torch.full((3, 9, 3), torch.nan, dtype=torch.float64)
    for number, row in enumerate(rows):
        values[number, : len(row)] = torch.from_numpy(row)
    features = Padded(values, torch.tensor([9, 1, 4]))
    moments = [-500, -1, 0, 7, 383, 384, 1000, 1152, 2000, 3072, 9000]
    expected = interpolated_by_hand(rows, moments, 384)
    result = interpolate(features, torch.tensor(moments), 384)
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize(("context", "delay_ms"), [
    ("causal", DELAY_MS), ("full", 0), ("slice", 0), ("causal_lookahead", 0),
])  # fmt: skip
def test_a_frame_learns_the_sound_that_ended_with_it_or_with_the_delay(
    context: str, delay_ms: int
) -> None:
    distillation = Distillation(load(f"encoder.context={context}").model, INFO)
    # every feature is the time in seconds at which the sound of its frame ends
    ends_s = (torch.arange(100) * INFO.frame_samples + INFO.min_samples) / 16_000
    features = Padded(ends_s[None, :, None].expand(1, 100, INFO.width))
    targets = distillation.targets(features, 50)
    student_ends_s = 0.04 * torch.arange(1, 51)
    expected = (student_ends_s - delay_ms / 1000).clamp_min(ends_s[0])
    torch.testing.assert_close(targets[0, :, 0], expected)


def test_the_loss_of_a_student_that_equals_the_teacher_falls_to_zero() -> None:
    config = load("encoder.d_model=8")
    distillation = Distillation(config.model, dataclasses.replace(INFO, width=8))
    features = Padded(torch.randn(4, 80, 8), torch.tensor([80, 50, 33, 60]))
    targets = distillation.targets(features, 48)
    # the same features in another basis, which the projection can undo
    basis, _ = torch.linalg.qr(torch.randn(8, 8))
    frames = Padded(targets @ basis, torch.tensor([48, 30, 19, 36]))
    optimizer = torch.optim.Adam(distillation.parameters(), lr=0.02)
    losses = []
    for _ in range(300):
        loss = distillation(frames, features)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.3 and losses[-1] < 1e-4


def test_the_loss_ignores_padding() -> None:
    distillation = Distillation(load().model, INFO)
    frames = Padded(torch.randn(2, 30, 32), torch.tensor([30, 12]))
    features = Padded(torch.randn(2, 50, INFO.width), torch.tensor([50, 20]))
    loss = distillation(frames, features)
    changed = distillation(_changed(frames), _changed(features))
    torch.testing.assert_close(changed, loss)
    rows = [
        distillation(Padded(frames.values[i : i + 1, :t]), Padded(features.values[i : i + 1, :f]))
        for i, t, f in ((0, 30, 50), (1, 12, 20))
    ]
    torch.testing.assert_close((rows[0] * 30 + rows[1] * 12) / 42, loss)


def _changed(batch: Padded) -> Padded:
    """The same rows with other padding."""
    return batch.with_values(torch.where(batch.mask()[..., None], batch.values, 99.0))


def test_features_belong_to_the_augmented_samples_which_stay_as_they_are(tmp_path: Path) -> None:
    config = load(f"data.cache={tmp_path}")
    corpora = Corpora(config)
    _, data = build(config, corpora, {}, tmp_path)
    items = data.add_features(corpora.stream)
    plain = corpora.stream[3]
    item = items[3]
    assert np.array_equal(item.samples, plain.samples) and item.features is None
    padded = pad_signals([plain.samples], UNIT).values[0].numpy()
    silence = np.zeros(INFO.edge_frames * INFO.frame_samples, np.float32)
    frames = global_encoder(np.concatenate([padded, silence]))[: len(padded) // INFO.frame_samples]
    expected = items.teacher.normalise(frames)
    torch.testing.assert_close(torch.from_numpy(item.teacher), expected)
    first = corpora.stream.ramp
    features = np.concatenate([items[first + n].teacher for n in range(NUM_NORM_UTTERANCES)])
    assert abs(features.mean()) < 0.05 and abs(features.std() - 1) < 0.05
    # of an endless stream nothing is stored
    assert not list(tmp_path.rglob("*.npy"))
    batch = collate([items[0], item], UNIT)
    assert batch.teacher.row_lengths().tolist() == [len(items[0].teacher), len(item.teacher)]


def test_features_of_repeated_utterances_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(f"data.cache={tmp_path}", "data.train_size=4")
    items = TeacherItems(Corpora(config).stream, build_teacher(config, TEACHER), config)
    first = items[3]
    assert len(list(tmp_path.rglob("*.npy"))) == 1
    replace_encoder(monkeypatch, fail_to_encode)
    assert np.array_equal(items[3].teacher, first.teacher)


def test_an_encoder_without_a_teacher_is_as_before() -> None:
    config = load_config([*STAGE, *SMALL_SIZES])
    module = EncoderStage(config, CTCRecogniser(config.model), None)
    assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"model"}
    assert fingerprint(config) != fingerprint(load())


@pytest.mark.parametrize(("overrides", "message"), [
    (["stage.teacher=moonshine-tiny"], "stage.teacher: unknown.*moonshine-tiny-en"),
    (["stage.distillation_weight=0"], "stage.distillation_weight=0.0.*stage.teacher=null"),
    (["features.sample_rate_hz=8000"], "features.sample_rate_hz=16000"),
    (["stage.name=asr"], f"stage.name=asr.*stages.encoder.stage.teacher={TEACHER}"),
    (["encoder.kind=pretrained", f"encoder.pretrained={TEACHER}", "encoder.context=full"],
     "encoder.kind=pretrained.*encoder.kind=conmamba"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(*overrides)


def train(folder: Path) -> Path:
    """The run of stage encoder with a teacher."""
    main(
        [
            *STAGE,
            *SHORT,
            f"run.dir={folder}",
            f"stage.teacher={TEACHER}",
            "trainer.max_steps=10",
            "trainer.valid_every_steps=10",
            "trainer.checkpoint_every_s=0",
        ]
    )
    [run] = folder.glob("encoder-*")
    return run


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        replace_encoder(monkeypatch, global_encoder)
        return train(tmp_path_factory.mktemp("runs"))


def test_both_losses_are_logged(distilled: Path) -> None:
    lines = [json.loads(line) for line in (distilled / "metrics.jsonl").read_text().splitlines()]
    [logged] = [line for line in lines if "train/loss_distillation" in line]
    parts = logged["train/loss_ctc"] + logged["train/loss_distillation"]
    assert logged["train/loss"] == pytest.approx(parts, rel=1e-5)


def test_a_later_stage_starts_from_a_distilled_encoder(distilled: Path, tmp_path: Path) -> None:
    checkpoint = StageCheckpoint.load(distilled)
    # the projection is no part of the model
    CTCRecogniser(checkpoint.config.model).load_state_dict(checkpoint.weights)
    config = load_config([*TINY, *SMALL_SIZES])
    language_model = StageCheckpoint(config, None, TextModel(config.model).state_dict())
    checkpoints = {"encoder": checkpoint, "lm": language_model}
    module, _ = build(config, Corpora(config), checkpoints, tmp_path)
    for name, weight in module.model.encoder.state_dict().items():
        assert torch.equal(weight, checkpoint.weights[f"encoder.{name}"])


class Killed(Exception):
    """Stands for the end of a process."""


def test_a_killed_run_resumes_to_the_same_weights(
    distilled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(EncoderStage, "training_step", step_until_killed)
        with pytest.raises(Killed):
            train(tmp_path)
    [last] = tmp_path.glob("*/last.ckpt")
    saved = torch.load(last, weights_only=True)
    assert saved["global_step"] == 3 and "distillation.projection.weight" in saved["state_dict"]
    resumed = StageCheckpoint.load(train(tmp_path)).weights
    expected = StageCheckpoint.load(distilled).weights
    assert all(torch.equal(resumed[name], weight) for name, weight in expected.items())


def step_until_killed(module: EncoderStage, batch: SpeechBatch, number: int) -> torch.Tensor:
    if number == 3:
        raise Killed
    return StageModule.training_step(module, batch, number)
