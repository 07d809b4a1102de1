"""Frames precomputed by data workers against those computed in training."""

import dataclasses
from pathlib import Path

import pytest
import torch

from configs.loading import load_config
from datamodules.corpora import Corpora
from lightning_modules.assembly import build
from tests.conftest import SMALL_SIZES, TINY

OVERRIDES = [
    *SMALL_SIZES,
    "data.batch_s=25",
    "data.max_s=12",
    "data.batch_dialogues=2",
    "data.synthetic_ramp=0",
]


def built(folder: Path, stage: str, *overrides: str):
    config = load_config(
        [TINY[0], f"configs/stage/{stage}.yaml", *OVERRIDES, "trainer.accelerator=cpu", *overrides]
    )
    return build(config, Corpora(config), {}, folder)


@pytest.mark.parametrize(("stage", "overrides", "precomputed"), [
    ("instruct", [], True), ("state", [], True), ("instruct", ["duplex.kind=multiplex"], True),
    ("asr", [], False), ("encoder", [], False), ("lm", [], False), ("streaming", [], False),
    ("instruct", ["trainer.precision=bf16-mixed"], False),
])  # fmt: skip
def test_frames_of_a_frozen_encoder_are_precomputed(
    tmp_path: Path, stage: str, overrides: list[str], precomputed: bool
) -> None:
    _, data = built(tmp_path, stage, *overrides)
    assert (data.precompute is not None) == precomputed


@pytest.mark.parametrize("stage", ["instruct", "state"])
@pytest.mark.parametrize("workers", [0, 1])
def test_workers_compute_the_frames_of_training(tmp_path: Path, stage: str, workers: int) -> None:
    module, data = built(tmp_path, stage, f"data.num_workers={workers}", "encoder.dropout=0.2")
    batch = next(iter(data.train_dataloader()))
    assert module.model.encoder.training  # as it was made
    module.train()
    here = dataclasses.replace(batch, frames=None)
    if stage == "state":
        here = dataclasses.replace(
            here, utterances=dataclasses.replace(batch.utterances, frames=None)
        )
    for part in [batch, *([batch.utterances] if stage == "state" else [])]:
        assert torch.equal(
            part.frames.values, module.model.encode(part.samples, final=True)[0].values
        )

    def loss(batch) -> torch.Tensor:
        torch.manual_seed(0)
        return module.training_loss(batch)

    assert torch.equal(loss(batch), loss(here)) and loss(batch).requires_grad
    assert next(iter(data.val_dataloader())).frames is None
