"""Speed and memory of a training among its metrics."""

import json
from pathlib import Path

import pytest
import torch

from datamodules.batching import SpeechBatch
from datamodules.dialogue.data import DialogueBatch
from duplexmamba.streaming.padded import Padded
from lightning_modules.trainer import throughput
from lightning_modules.trainer.run import LOG_EVERY_STEPS
from tests.conftest import TINY
from tests.small_runs import SHORT, write_corpus
from train import main


def speech(lengths: list[int]) -> SpeechBatch:
    samples = Padded(torch.zeros(len(lengths), max(lengths)), torch.tensor(lengths))
    texts = ["text"] * len(lengths)
    return SpeechBatch(samples, texts, texts, [])


def test_audio_is_counted_without_padding() -> None:
    assert throughput.num_audio_samples(speech([300, 500])) == 800
    dialogue = Padded(torch.zeros(1, 1000))
    assert throughput.num_audio_samples(DialogueBatch(dialogue, [], speech([300]), [])) == 1300
    assert throughput.num_audio_samples(object()) == 0


def test_only_the_fetching_of_batches_counts_as_waiting() -> None:
    timer = throughput.DataWaitTimer()
    with timer.profile("run_training_batch"):
        pass
    assert timer.waited_s == 0
    with timer.profile(throughput.FETCH):
        pass
    assert timer.waited_s > 0


@pytest.mark.timeout(300)
def test_throughput_is_logged_at_every_log_interval(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    steps = [f"trainer.max_steps={2 * LOG_EVERY_STEPS}", "trainer.accumulate=2"]
    data = [f"data.path={corpus}", "data.synthetic_share=0", f"run.dir={tmp_path / 'runs'}"]
    main([TINY[0], "configs/stage/encoder.yaml", *SHORT, *steps, *data])
    text = (tmp_path / "runs" / "latest" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    logged = [line for line in lines if "train/loss" in line]
    assert len(logged) == 2
    for line in logged:
        assert line["train/audio_s_per_s"] > 0
        assert 0 < line["train/data_wait_share"] <= 1
        assert line["train/peak_memory_gib"] > 0
    assert all(
        name not in line for line in lines if line not in logged for name in throughput.METRICS
    )
