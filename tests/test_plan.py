"""The planned memory equals the measured memory of a training step."""

import dataclasses
import multiprocessing
from pathlib import Path

import pytest
import torch

from configs.loading import load_config, override
from configs.schema import Config
from datamodules.batching import SpeechBatch
from datamodules.dialogue.data import DialogueBatch
from datamodules.dialogue.text_dialogues import open_text_dialogues
from duplexmamba.models import lora
from duplexmamba.models.encoders.library import open_library_encoder
from duplexmamba.models.speech_lm import SpeechLM, count_parameters
from duplexmamba.streaming import state as states
from duplexmamba.streaming.padded import Padded
from lightning_modules.dialogue import DialogueStage
from lightning_modules.speech import SpeechStage
from lightning_modules.trainer import plan as planning
from lightning_modules.trainer.plan import (
    Plan,
    bf16_copies,
    conclusion,
    dialogue_activations,
    measure_saved,
    plan,
    saved_by_all_layers,
)
from lightning_modules.trainer.plan_dialogues import EstimatedTokenizer, work_of
from tests.conftest import SMALL_SIZES, TINY
from tests.test_presets_without_download import arguments

BATCH_S = 60


@pytest.mark.parametrize(
    "kind",
    [
        [],
        ["lm.kind=transformer", "lm.num_heads=2"],
        ["lm.kind=hybrid", "lm.num_heads=2", "lm.head_dim=16", "lm.pattern='M-*'"],
    ],
    ids=["mamba", "transformer", "hybrid"],
)
@pytest.mark.parametrize("recomputed", [False, True])
def test_saved_bytes_of_all_layers_follow_from_few_built_ones(
    recomputed: bool, kind: list[str]
) -> None:
    config = load_config([*TINY, *SMALL_SIZES, *kind, "encoder.num_layers=4", "lm.num_layers=5"])
    total, layer = saved_by_all_layers(config, recomputed)
    assert total == pytest.approx(measure_saved(config, recomputed), rel=0.01) and 0 < layer < total


def test_frozen_parts_have_no_gradients_and_every_rank_has_all_weights(config: Config) -> None:
    single = plan(config, 1)
    six_ranks = plan(config, 6)
    assert set(single.parameters) == {"frontend", "encoder", "connector", "lm"}
    assert single.trained == sum(single.parameters.values()) - single.parameters["lm"]
    assert (single.gradients, six_ranks.gradients) == (4 * single.trained, 8 * single.trained)
    assert single.weights == six_ranks.weights == 4 * sum(single.parameters.values())
    assert single.speech_tokens == 5 * config.data.batch_s
    assert single.total(recomputed=True) < single.total(recomputed=False)


def test_sharded_weights_are_divided_among_the_ranks(config: Config) -> None:
    config = override(
        config, ["encoder.num_layers=12", "lm.num_layers=12", "stage.trained=[encoder,lm]"]
    )
    replicated = plan(config, 6)
    sharded = plan(override(config, ["trainer.strategy=fsdp"]), 6)
    model = SpeechLM(config.model)
    sizes = [
        sum(w.numel() for w in layer.parameters())
        for layer in [*model.encoder.blocks, *model.lm.layers]
    ]
    num_weights = sum(w.numel() for w in model.parameters())
    num_gathered = num_weights - sum(sizes) + 2 * max(sizes)
    assert sharded.weights == pytest.approx(4 * (num_weights / 6 + num_gathered), abs=4)
    assert sharded.gradients == pytest.approx(4 * (sharded.trained / 6 + num_gathered), abs=4)
    assert sharded.optimizer == replicated.optimizer // 6
    assert sharded.activations == pytest.approx(replicated.activations, rel=0.01)


def step_bytes(overrides: list[str]) -> tuple[Plan, int]:
    """The plan, and the peak memory in bytes of the first training step of this process."""
    torch.set_num_threads(1)
    config = load_config([*TINY, *overrides])
    planned = plan(config, 1)
    before = peak_bytes()
    model = planning._build_model(config).train()
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    planning.PROBE_S = BATCH_S
    planning._loss(model, config).backward()
    optimizer.step()
    return planned, peak_bytes() - before


def peak_bytes() -> int:
    """Peak memory of this process; getrusage would start from that of the parent process."""
    [line] = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return 1024 * int(line.split()[1])


@pytest.mark.timeout(200)
def test_a_training_step_needs_the_planned_memory() -> None:
    overrides = [f"data.batch_s={BATCH_S}", f"data.max_s={BATCH_S}"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        planned, measured = pool.apply(step_bytes, (overrides,))
    assert measured / planned.total(recomputed=False) == pytest.approx(1, abs=0.35)


def test_stage_lm_is_rejected(config: Config) -> None:
    with pytest.raises(ValueError, match="plan STAGE=asr"):
        plan(override(config, ["stage.name=lm"]), 1)


def test_paper_fits_the_cards_that_its_file_names() -> None:
    """A pretended GPU measured 52.7 GB, and 89.9 GB for batches twice as long, in bfloat16."""
    config = load_config(["configs/preset/paper.yaml", "configs/stage/asr.yaml"])
    planned = plan(config, 1)
    total = planned.total(recomputed=False)
    assert total == pytest.approx(52.7e9, rel=0.1)
    assert total + planned.activations == pytest.approx(89.9e9, rel=0.1)
    assert "activation_checkpointing=false" in conclusion(planned, config)
    assert conclusion(planned, config).endswith("fits 80 GB")
    too_long = dataclasses.replace(planned, activations=150 * 10**9)
    assert "fits no card; try a lower data.batch_s with a" in conclusion(too_long, config)


def test_weights_in_bfloat16_are_kept_for_each_use_of_a_frozen_language_model(
    config: Config,
) -> None:
    model = planning._build_model(config)
    lm = sum(weight.numel() for weight in model.lm.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert bf16_copies(config, model, 3) == 2 * (trained + 3 * lm)
    in_float32 = override(config, ["trainer.precision=32-true"])
    assert bf16_copies(in_float32, model, 3) == 0


def test_dialogues_save_what_their_segments_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, whose scan returns the states at forks in its only pass."""
    monkeypatch.setattr(planning, "second_scan_bytes", lambda *_: 0)
    sizes = ["lm.num_layers=4", "encoder.dropout=0", "stage.utterances_per_dialogue=0"]
    config = load_config([TINY[0], "configs/stage/streaming.yaml", *SMALL_SIZES, *sizes])
    dialogues = open_text_dialogues(config)
    batch = [dialogues[position] for position in range(3)]
    work = work_of(batch, config, "cpu")
    expected, recomputed = dialogue_activations(config, work)
    model = planning._build_model(config)
    stage = DialogueStage(config, model, EstimatedTokenizer(1)).train()

    def loss(model: torch.nn.Module, config: Config) -> torch.Tensor:
        lengths = torch.tensor([len(dialogue.samples) for dialogue in batch])
        samples = Padded(torch.randn(len(batch), int(lengths.max())), lengths)
        no_utterances = SpeechBatch(Padded(torch.zeros(0, 1)), [], [], [])
        return stage.dialogue_loss(DialogueBatch(samples, batch, no_utterances, []))

    monkeypatch.setattr(planning, "_build_model", lambda config: model)
    assert measure_saved(config, False, loss) == pytest.approx(expected, rel=0.15)
    assert recomputed < 0.6 * expected
    assert work.audio_s > len(batch) * config.data.max_s and work.lm_steps > 0


def test_a_config_json_that_cannot_be_read_is_named() -> None:
    args = [TINY[0], "configs/stage/instruct.yaml", "lm.kind=pretrained", "lm.pretrained=somewhere"]
    with pytest.raises(ValueError, match="lm.pretrained='somewhere': no readable"):
        planning.plan(load_config(args), 1)


def pretrained_config(tmp_path: Path, stage: str, preset: str = "slam", *words: str) -> Config:
    """Tiny folders in place of the models that a preset names, without adapters unless asked for."""
    return load_config([*arguments(preset, stage, tmp_path), "trainer.precision=32-true", *words])


TRAINED = ["encoder.trainable=true", "stage.trained=[features,connector,lm]", "lora.enabled=false"]


@pytest.mark.parametrize(
    ("preset", "words"), [("slam", []), ("slam", TRAINED), ("slam_streaming", [])]
)
def test_pretrained_models_are_planned_without_their_weights(
    preset: str, words: list[str], tmp_path: Path
) -> None:
    """Counts and activations of a plan are those of the model that is trained, with its weights."""
    config = pretrained_config(tmp_path, "instruct", preset, *words)
    model = SpeechLM(config.model)
    if config.lora.enabled:
        lora.adapt(model, config.lora, config.stage.trained)
    module = SpeechStage(config, model, None)
    planned = plan(config, 1)
    assert planned.trained == module.num_trained()
    assert planned.parameters["lm"] == count_parameters(model)["lm"]
    of_encoder = open_library_encoder(str(config.encoder.pretrained), "cpu").model
    constant = sum(
        weight.numel()
        for name, weight in of_encoder.named_parameters()
        if "masked_spec_embed" in name
    )
    assert planned.parameters["features"] == of_encoder.num_parameters() - constant
    assert planned.weights == 4 * sum(planned.parameters.values())
    assert planned.gradients == 4 * planned.trained and planned.optimizer == 8 * planned.trained

    batch = SpeechBatch(Padded(torch.zeros(1, planning.PROBE_S * 16_000)), ["a" * 14], [""], [])

    def loss(model: torch.nn.Module, config: Config) -> torch.Tensor:
        return module.training_loss(batch)

    module.tokenizer = EstimatedTokenizer(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "_build_model", lambda config: model)
        measured = measure_saved(config, False, loss)
    probe, _ = saved_by_all_layers(config, recomputed=False)
    assert probe == pytest.approx(measured, rel=0.25)
    of_batch = config.data.batch_s / planning.PROBE_S * probe
    assert planned.activations == pytest.approx(of_batch, rel=1e-3)
    assert planned.activations_recomputed < planned.activations


@pytest.mark.parametrize("preset", ["slam", "slam_streaming"])
def test_states_of_pretrained_language_models_are_counted_once(preset: str, tmp_path: Path) -> None:
    config = pretrained_config(tmp_path, "streaming", preset)
    model = SpeechLM(config.model)
    _, state = model.lm(Padded(torch.zeros(1, 9, config.lm.d_model)))
    assert planning.state_bytes(config, 9) == states.num_bytes(state)


def test_dialogues_of_a_preset_with_pretrained_models_are_planned(tmp_path: Path) -> None:
    config = pretrained_config(tmp_path, "streaming", "slam")
    planned = plan(config, 1)
    assert planned.activations > planned.activations_recomputed > 0
