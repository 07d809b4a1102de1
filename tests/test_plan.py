"""The planned memory is the memory of a training step."""

import multiprocessing
from pathlib import Path

import pytest
import torch

from configs.loading import load_config, override
from configs.schema import Config
from duplexmamba.models.speech_lm import SpeechLM
from lightning_modules.trainer import plan as planning
from lightning_modules.trainer.plan import Plan, measure_saved, plan, saved_by_all_layers
from tests.conftest import SMALL_SIZES, TINY

BATCH_S = 60


@pytest.mark.parametrize(
    "kind", [[], ["lm.kind=transformer", "lm.num_heads=2"]], ids=["mamba", "transformer"]
)
@pytest.mark.parametrize("recomputed", [False, True])
def test_layers_that_were_not_built_are_counted(recomputed: bool, kind: list[str]) -> None:
    config = load_config([*TINY, *SMALL_SIZES, *kind, "encoder.num_layers=4", "lm.num_layers=3"])
    total, layer = saved_by_all_layers(config, recomputed)
    assert total == pytest.approx(measure_saved(config, recomputed), rel=0.01) and 0 < layer < total


def test_frozen_parts_have_no_gradients_and_every_rank_holds_all_weights(config: Config) -> None:
    one, six = plan(config, 1), plan(config, 6)
    assert set(one.parameters) == {"frontend", "encoder", "connector", "lm"}
    assert one.trained == sum(one.parameters.values()) - one.parameters["lm"]
    assert (one.gradients, six.gradients) == (4 * one.trained, 8 * one.trained)
    assert one.weights == six.weights == 4 * sum(one.parameters.values())
    assert one.speech_tokens == 5 * config.data.batch_s
    assert one.total(recomputed=True) < one.total(recomputed=False)


def test_sharded_weights_are_divided_among_the_ranks(config: Config) -> None:
    config = override(
        config, ["encoder.num_layers=12", "lm.num_layers=12", "stage.trained=[encoder,lm]"]
    )
    whole, shared = plan(config, 6), plan(override(config, ["trainer.strategy=fsdp"]), 6)
    model = SpeechLM(config.model)
    sizes = [
        sum(w.numel() for w in layer.parameters())
        for layer in [*model.encoder.blocks, *model.lm.layers]
    ]
    every = sum(w.numel() for w in model.parameters())
    at_once = every - sum(sizes) + 2 * max(sizes)
    assert shared.weights == pytest.approx(4 * (every / 6 + at_once), abs=4)
    assert shared.gradients == pytest.approx(4 * (shared.trained / 6 + at_once), abs=4)
    assert shared.optimizer == whole.optimizer // 6
    assert shared.activations == pytest.approx(whole.activations, rel=0.01)


def step_bytes(words: list[str]) -> tuple[Plan, int]:
    """The plan, and what one step in this process, which has made none, takes at its peak."""
    torch.set_num_threads(1)
    config = load_config([*TINY, *words])
    planned = plan(config, 1)
    before = peak_bytes()
    model = planning._build_model(config).train()
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    planning.PROBE_S = BATCH_S
    planning._loss(model, config).backward()
    optimizer.step()
    return planned, peak_bytes() - before


def peak_bytes() -> int:
    """Of this program; getrusage would begin with that of the process which started it."""
    [line] = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return 1024 * int(line.split()[1])


@pytest.mark.timeout(200)
def test_a_step_of_tiny_takes_the_planned_memory() -> None:
    words = [f"data.batch_s={BATCH_S}", f"data.max_s={BATCH_S}"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        planned, measured = pool.apply(step_bytes, (words,))
    assert measured / planned.total(recomputed=False) == pytest.approx(1, abs=0.35)


def test_stage_lm_is_refused(config: Config) -> None:
    with pytest.raises(ValueError, match="plan STAGE=asr"):
        plan(override(config, ["stage.name=lm"]), 1)
