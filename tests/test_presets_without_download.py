"""The presets that start from the hub, on tiny folders: every stage, then a live session."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.loading import override
from configs.recipes import STAGES
from duplexmamba.duplex import DUPLEX_KINDS
from duplexmamba.duplex.events import Event
from duplexmamba.models.speech_lm import SpeechLM
from lightning_modules.trainer.checkpoint import StageCheckpoint
from tests.library_encoders import folder_of
from tests.small_runs import BRIEF
from train import main

PAIRS = {
    "slam": ("wavlm", "llama"),
    "slam_streaming": ("nemotron_asr_streaming", "granitemoehybrid"),
}
"""Preset -> architectures of its encoder and its language model."""
LAST_STAGES = {"slam": "instruct", "slam_streaming": "streaming"}
"""One chain goes to its end; what the stages on dialogues add is the same for both."""
SMALL = [
    "encoder.d_model=32",
    "connector.d_hidden=16",
    "lm.d_model=32",
    "lm.vocab_size=323",
    "data.voices={espeak: 1}",
    "data.batch_s=25",
    "data.max_s=12",
    "data.num_workers=0",
    "data.valid_size=2",
    "data.test_size=2",
    "data.batch_dialogues=1",
    "data.valid_dialogues=1",
    "data.test_dialogues=1",
    "dialogue.events=[1,2]",
    "duplex.max_tokens=4",
]
UPDATES = [*BRIEF, "trainer.max_steps=3", "wandb.mode=disabled"]


def arguments(preset: str, stage: str, folder: Path) -> list[str]:
    encoder, lm = PAIRS[preset]
    brief = [f"stages.{name}.{word}" for name in STAGES if name != stage for word in UPDATES]
    return [
        f"configs/preset/{preset}.yaml", f"configs/stage/{stage}.yaml", *SMALL, *UPDATES, *brief,
        f"encoder.pretrained={folder_of(encoder)}", f"lm.pretrained={folder_of(lm)}",
        f"tokenizer.source={folder_of(lm)}", f"run.dir={folder}", f"data.cache={folder}/cache",
    ]  # fmt: skip


def untimed(events: list[Event]) -> list[Event]:
    return [dataclasses.replace(event, compute_ms=0) for event in events]


@pytest.mark.parametrize("preset", PAIRS)
def test_every_stage_trains_and_the_model_talks(preset: str, tmp_path: Path) -> None:
    last = LAST_STAGES[preset]
    main(arguments(preset, last, tmp_path))
    runs = {path.name.split("-")[0]: path for path in tmp_path.iterdir() if path.name != "cache"}
    trained = ["asr", "instruct", "state", "streaming"]
    assert set(runs) == {*trained[: trained.index(last) + 1], "latest"}
    # nothing of the encoder is in a checkpoint but the normalisation of its frames
    checkpoint = StageCheckpoint.load(runs[last])
    features = {name for name in checkpoint.weights if name.startswith("features.")}
    assert features == {"features.mean", "features.std"}

    # slices are heard in windows where the last stage has heard whole utterances
    context = {"slam": "window", "slam_streaming": "cache"}[preset]
    config = override(checkpoint.config, [f"encoder.context={context}"])
    model = SpeechLM(config.model).eval()
    model.load_state_dict(checkpoint.weights)
    duplex = config.duplex
    open_session = DUPLEX_KINDS[duplex.kind].session
    session = open_session(model, checkpoint.tokenizer, duplex)
    audio = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, 32_000)).float()
    events = session.push(audio[:9_000])
    fork = session.snapshot()
    rest = untimed(session.push(audio[9_000:]))
    assert len(events) + len(rest) == int(2000 / duplex.slice_ms)
    session.restore(fork)
    assert untimed(session.push(audio[9_000:])) == rest
    session.close()
