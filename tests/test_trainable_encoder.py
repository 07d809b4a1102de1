"""Encoders of transformers in training: gradients, learning rates, checkpoints, adapters, sessions."""

import dataclasses
from pathlib import Path

import pytest
import torch

from configs.loading import load_config, override
from configs.schema import Config
from datamodules.corpora import Corpora
from duplexmamba.models import lora
from duplexmamba.models.encoders.library import open_library_encoder
from duplexmamba.models.speech_lm import SpeechEncoder, SpeechLM
from duplexmamba.streaming.padded import Padded
from lightning_modules import assembly
from lightning_modules.assembly import build, check_adapters
from lightning_modules.optim import build_optimizer
from lightning_modules.sessions import open_model
from lightning_modules.speech import SpeechStage
from lightning_modules.stage import StageModule
from lightning_modules.trainer.averaging import WeightAveraging
from lightning_modules.trainer.callbacks import LAST, ResumeCheckpoint
from lightning_modules.trainer.checkpoint import StageCheckpoint, load_parts
from lightning_modules.trainer.feature_cache import cached_features_of
from lightning_modules.trainer.fill_features import fill
from lightning_modules.trainer.resume import resume_point
from lightning_modules.trainer.run import build_trainer, fit
from tests.library_encoders import WINDOW_FAMILIES, config_of, encoder_of, folder_of
from tests.test_presets_without_download import arguments
from tests.test_pretrained_lm_stages import KillAt, Killed, assert_talks

pytestmark = pytest.mark.filterwarnings(
    # parts in the mode for use, which commands do not mention
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"
)

TRAINABLE = "encoder.trainable=true"
TRAINED = [TRAINABLE, "stage.trained=[features,connector]"]
RATE = "optim.encoder_lr=1e-3"
PREFIX = "features.model."
CONSTANT = {"masked_spec_embed"}
"""Weights of WavLM that are used in its own training alone."""


def frames_of(model: SpeechEncoder) -> Padded:
    """Frames of two rows of noise, of 2.3 and 1.6 slices."""
    num_slices = torch.tensor([2.3, 1.6])
    slice_samples = 0.16 * model.features.info.sample_rate_hz
    lengths = (num_slices * slice_samples).long()
    audio = 0.1 * torch.randn(2, int(lengths.max()), generator=torch.Generator().manual_seed(0))
    frames, _ = model.features(Padded(audio, lengths), None, True)
    return frames


@pytest.mark.parametrize(
    ("family", "context"), [*((family, "window") for family in WINDOW_FAMILIES), ("wavlm", "full")]
)
def test_it_hears_as_the_frozen_one_and_every_weight_gets_a_gradient(
    family: str, context: str
) -> None:
    expected = frames_of(encoder_of(family, context))
    model = encoder_of(family, context, TRAINABLE)
    model.features.load_pretrained()
    model.train()
    frames = frames_of(model)
    torch.testing.assert_close(frames.values, expected.values, atol=1e-5, rtol=1e-5)
    assert torch.equal(frames.row_lengths(), expected.row_lengths())
    # squares: the mean over the channels of a layer norm is constant
    frames.values.square().mean().backward()
    gradients = {name: weight.grad for name, weight in model.features.named_parameters()}
    without = [name for name, gradient in gradients.items() if gradient is None]
    assert gradients and not without
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def small(tmp_path: Path, *overrides: str) -> Config:
    """A configuration of stage asr of preset slam that trains its encoder."""
    words = arguments("slam", "asr", tmp_path)
    return load_config([*words, *TRAINED, RATE, *overrides])


def test_the_encoder_has_its_own_learning_rate(tmp_path: Path, without_norm: None) -> None:
    config = small(tmp_path)
    module, _ = build(config, Corpora(config), {}, tmp_path)
    rates = {}
    names = {weight: name for name, weight in module.named_parameters()}
    for group in build_optimizer(module.named_parameters(), config.optim).param_groups:
        rates.update({names[weight]: group["lr"] for weight in group["params"]})
    of_encoder = {name for name in rates if name.startswith(f"model.{PREFIX}")}
    connector = {name for name in rates if name.startswith("model.connector.")}
    assert {rates[name] for name in of_encoder} == {1e-3}
    assert {rates[name] for name in connector} == {config.optim.lr}
    assert len(of_encoder) == sum(1 for _ in module.model.features.parameters())
    # dropout and masks of its own, and statistics of batches, stay off
    assert not module.train().model.features.model.training


def train(config: Config, folder: Path, corpora: Corpora, kill_at: int | None) -> StageModule:
    """Train a stage, or continue a training that was killed."""
    folder.mkdir(exist_ok=True)
    module, data = build(config, corpora, {}, folder)
    callbacks = [KillAt(kill_at), ResumeCheckpoint(folder / LAST, 0), WeightAveraging(config)]
    fit(build_trainer(config, folder, callbacks), module, data, folder)
    return module


@pytest.fixture
def without_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the normalisation neutral, for which many utterances would be spoken and encoded."""
    monkeypatch.setattr(assembly, "fit_feature_norm", lambda model, corpora: None)


FROZEN = ["encoder.trainable=false", "optim.encoder_lr=null", "stage.trained=[connector]"]
LORA = ["lora.enabled=true", "lora.rank=2", "lora.dropout=0.5", "lora.targets=[features.*.q_proj]"]


def test_a_training_resumes_and_changes_what_it_trains(tmp_path: Path, without_norm: None) -> None:
    brief = ["trainer.max_steps=2", "trainer.valid_every_steps=2", "data.batch_s=12"]
    config = small(tmp_path, *brief, "data.valid_size=1")
    corpora = Corpora(config)
    whole = train(config, tmp_path / "whole", corpora, None)
    with pytest.raises(Killed):
        train(config, tmp_path / "parts", corpora, 1)
    assert resume_point(tmp_path / "parts") is not None
    resumed = train(config, tmp_path / "parts", corpora, None)
    weights = resumed.model.state_dict()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weights[name], weight), name
    pretrained = open_library_encoder(str(folder_of("wavlm")), "cpu").model.state_dict()
    learnt = whole.model.features.model.state_dict()
    assert set(learnt) == set(pretrained)
    changed = {name for name in learnt if not torch.equal(learnt[name], pretrained[name])}
    assert changed == set(pretrained) - CONSTANT


@pytest.mark.parametrize("family", ["wavlm", "whisper", "parakeet_ctc", "moonshine"])
def test_adapters_alone_learn_and_are_merged(family: str) -> None:
    """On all linear layers but those on which they would have no effect, which are refused."""
    config = config_of(family, "window", *TRAINED, *LORA)
    model = SpeechLM(config.model)
    model.features.load_pretrained()
    before = {name: weight.clone() for name, weight in model.features.state_dict().items()}
    bare = model.features.library.architecture.bare_layers
    names = [
        name
        for name, module in model.features.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.endswith(bare)
    ]
    settings = dataclasses.replace(config.lora, targets=[f"features.{name}" for name in names])
    lora.adapt(model, settings, config.stage.trained)
    module = SpeechStage(config, model, None).train()
    in_training = {name for name, child in model.features.model.named_modules() if child.training}
    assert in_training and all("lora_dropout" in name for name in in_training)
    frames_of(model).values.square().mean().backward()
    for name, weight in module.named_parameters():
        if name.startswith(f"model.{PREFIX}"):
            assert weight.requires_grad == (".lora_" in name), name
            # the factor behind is zero at first, so that the gradient of the one before it is
            is_learning = weight.grad is not None and bool(weight.grad.any())
            assert is_learning == (".lora_B." in name), name
            weight.data += 0.1 if weight.requires_grad else 0.0
    lora.merge(model)
    after = model.features.state_dict()
    assert set(after) == set(before)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {f"{name}.weight" for name in names}


def test_adapters_without_effect_are_refused() -> None:
    config = config_of("wavlm", "window", *TRAINED, *LORA)
    with pytest.raises(ValueError, match="would have no effect.*q_proj.*name others, such as"):
        check_adapters(config)


def test_stages_hand_it_on_and_a_session_hears_through_it(
    tmp_path: Path, without_norm: None
) -> None:
    """A run with a frozen encoder, then one that trains it, then one that leaves it as it is."""
    config = small(tmp_path)
    corpora = Corpora(config)
    frozen, _ = build(override(config, FROZEN), corpora, {}, tmp_path)
    assert not list(frozen.model.features.parameters())
    normalisation = 2 + torch.arange(32.0)
    frozen.model.features.mean.copy_(normalisation)
    init = ["stage.init={features: asr, connector: asr, lm: lm}"]
    frozen.model.lm.merge_rows()
    first = StageCheckpoint(frozen.config, frozen.tokenizer, frozen.model.state_dict())
    module, _ = build(override(config, init), corpora, {"asr": first}, tmp_path)
    features = module.model.features
    pretrained = open_library_encoder(str(folder_of("wavlm")), "cpu").model.state_dict()
    for name, weight in features.model.state_dict().items():
        assert torch.equal(weight, pretrained[name])
    with torch.no_grad():
        for weight in features.parameters():
            weight.add_(0.1)
    module.model.lm.merge_rows()
    trained = StageCheckpoint(module.config, module.tokenizer, module.model.state_dict())
    overrides = [*init, "stage.trained=[connector]", "encoder.context=window"]
    kept, _ = build(override(config, overrides), corpora, {"asr": trained}, tmp_path)
    assert torch.equal(kept.model.features.mean, normalisation)
    for name, weight in kept.model.features.model.state_dict().items():
        assert torch.equal(weight, features.model.state_dict()[name])
    assert not any(weight.requires_grad for weight in kept.model.features.parameters())
    kept.model.lm.merge_rows()
    last = StageCheckpoint(kept.config, module.tokenizer, kept.model.state_dict())
    live = override(kept.config, ["duplex.min_slices=1"])
    model = open_model(last, live)
    assert last.tokenizer is not None
    assert_talks(model, last.tokenizer, live, num_slices=3)


def test_a_cache_of_features_is_not_made_for_it(tmp_path: Path) -> None:
    overrides = ["data.train_size=4", f"data.cache={tmp_path}", TRAINABLE]
    config = config_of("wavlm", "window", *overrides)
    model = SpeechEncoder(config.model)
    assert cached_features_of(model, config, training=True) is None
    fill([*arguments("slam", "asr", tmp_path), "data.train_size=4", TRAINABLE])
    assert not list(tmp_path.rglob("*.npy"))


def test_a_run_that_trained_it_starts_no_run_with_a_frozen_one(tmp_path: Path) -> None:
    model = encoder_of("wavlm", "window", TRAINABLE)
    config = config_of("wavlm", "window", TRAINABLE)
    checkpoint = StageCheckpoint(config, None, model.state_dict())
    with pytest.raises(ValueError, match=r"features\.model\..* is unknown here"):
        load_parts(encoder_of("wavlm", "window"), checkpoint, ["features"], "asr")


@pytest.mark.parametrize(
    ("family", "context", "overrides", "message"),
    [
        ("mimi", "cache", [TRAINABLE], "changes the caches of .* in place.*trainable=false"),
        (
            "wavlm",
            "window",
            [TRAINABLE, "encoder.pretrained=moonshine-tiny-en"],
            "is an ONNX file.*encoder.pretrained=UsefulSensors/moonshine-tiny",
        ),
        ("wavlm", "window", [TRAINABLE, "features.level=channel"], "set features.level=none"),
        ("wavlm", "window", ["stage.trained=[features]"], "set encoder.kind=pretrained and"),
        ("wavlm", "window", [RATE], "encoder is frozen; set encoder.trainable=true"),
        ("wavlm", "window", [TRAINABLE, "optim.encoder_lr=0"], "must be more than 0"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    family: str, context: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(family, context, *overrides)


def test_blocks_of_this_project_are_trained_otherwise() -> None:
    with pytest.raises(ValueError, match="encoder.kind=conmamba.*set encoder.trainable=false"):
        load_config(["configs/preset/tiny.yaml", "configs/stage/asr.yaml", TRAINABLE])
