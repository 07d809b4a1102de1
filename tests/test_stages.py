"""Every registered stage: record, recipe and scores fit each other, and it trains."""

from pathlib import Path

import pytest

from configs.loading import load_config
from configs.recipes import STAGES, stage_file
from lightning_modules.stages import STAGE_REGISTRY
from tests.conftest import TINY
from tests.small_runs import SHORT, chain_of
from tests.test_sweeps import metrics
from train import main

IN_CHAIN = chain_of("streaming")
"""Stages that tests/test_train.py trains."""


def test_every_stage_has_a_recipe_and_a_record() -> None:
    assert set(STAGES) == STAGE_REGISTRY.keys()


@pytest.mark.parametrize("name", STAGE_REGISTRY)
def test_the_main_score_of_a_stage_is_among_its_scores(name: str) -> None:
    stage = STAGE_REGISTRY[name]
    config = load_config([TINY[0], str(stage_file(name))])
    assert stage.name == name and stage.description
    assert stage.metric in metrics(config)
    assert stage.transcriber is None or stage.transcriber in STAGE_REGISTRY


@pytest.mark.timeout(300)
def test_stages_beside_the_chain_train(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    for name in STAGES:
        if name not in IN_CHAIN:
            stage = STAGE_REGISTRY[name]
            summary = main([TINY[0], str(stage_file(name)), *SHORT, f"run.dir={tmp_path}"])
            assert stage.metric in summary
