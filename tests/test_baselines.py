"""Registered variants of equal size differ by 2 % at most, and every registered variant trains."""

import json
import string
from pathlib import Path

import pytest
import torch
import yaml

from configs.loading import load_config
from duplexmamba.models.connectors import CONNECTORS
from duplexmamba.models.mixers import MIXERS
from duplexmamba.models.speech_lm import SpeechLM, count_parameters
from lightning_modules.trainer.checkpoint import StageCheckpoint
from tests.conftest import TINY
from tests.small_runs import SHORT
from train import main

REGISTRIES = {"encoder.mixer": MIXERS, "connector.kind": CONNECTORS}
PUBLISHED = {"encoder.mixer": "mamba", "connector.kind": "stack"}
OTHER_MIXERS = [name for name in MIXERS if name != "mamba"]
OTHER_CONNECTORS = [name for name in CONNECTORS if name != "stack"]
MATCHED = [
    (key, name)
    for key, registry in REGISTRIES.items()
    for name, kind in registry.items()
    if kind.matches_size
]
"""Setting and kind of every variant with as many parameters as the published one."""


def parameter_counts(preset: str, *overrides: str) -> dict[str, int]:
    with torch.device("meta"):
        model = SpeechLM(
            load_config(
                [f"configs/preset/{preset}.yaml", "configs/stage/asr.yaml", *overrides]
            ).model
        )
    return count_parameters(model)


@pytest.mark.parametrize(
    "context", ["full", "causal"]
)  # slice and causal_lookahead have the weights of full
@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
def test_every_variant_has_as_many_parameters(preset: str, context: str) -> None:
    published = parameter_counts(preset, f"encoder.context={context}")
    for key, value in MATCHED:
        variant = parameter_counts(preset, f"encoder.context={context}", f"{key}={value}")
        assert variant.keys() == published.keys()
        for part, number in published.items():
            assert variant[part] == pytest.approx(number, rel=0.02), (part, value)


@pytest.mark.parametrize("name", ["encoder_mixer", "connector"])
def test_a_sweep_compares_equal_sizes_over_three_seeds(name: str) -> None:
    sweep = yaml.safe_load(Path(f"sweeps/{name}.yaml").read_text())
    grid = {key: entry["values"] for key, entry in sweep["parameters"].items()}
    assert grid.pop("seed") == [1, 2, 3]
    [(swept, kinds)] = grid.items()
    assert PUBLISHED[swept] in kinds and len(kinds) > 1
    assert all((swept, kind) in MATCHED for kind in kinds)
    assert Path(sweep["program"]).exists()
    fixed = [
        argument
        for argument in sweep["command"]
        if string.Template(argument).get_identifiers() == []
    ]
    for key, values in grid.items():
        assert all(load_config([*fixed, f"{key}={value}", "seed=2"]) for value in values)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", OTHER_MIXERS)
def test_a_mixer_trains(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    override = f"encoder.mixer={kind}"
    summary = main([TINY[0], "configs/stage/encoder.yaml", *SHORT, f"run.dir={tmp_path}", override])
    assert summary["test/cer"] > 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", OTHER_CONNECTORS)
def test_a_connector_trains(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    override = f"connector.kind={kind}"
    summary = main([TINY[0], "configs/stage/asr.yaml", *SHORT, f"run.dir={tmp_path}", override])
    assert summary["test/cer"] > 0
    [metrics] = tmp_path.glob("asr-*/metrics.jsonl")
    assert any("valid/loss" in json.loads(line) for line in metrics.read_text().splitlines())
    if CONNECTORS[kind].starts_from_ctc_head:
        weights = {
            f.name.split("-")[0]: StageCheckpoint.load(f / "checkpoint.pt").weights
            for f in tmp_path.glob("*-tiny-*")
        }
        initial, trained = weights["encoder"]["ctc.weight"], weights["asr"]["connector.head.weight"]
        assert not torch.equal(initial, trained) and torch.allclose(initial, trained, atol=0.05)
