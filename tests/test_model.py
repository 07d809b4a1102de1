"""The whole model: published sizes, batches, gradients, and construction without settings."""

import subprocess
import sys

import pytest
import torch

import duplexmamba
from configs.loading import load_config
from configs.schema import Config
from duplexmamba.models.speech_lm import SpeechLM, count_parameters
from duplexmamba.streaming.padded import Padded


def test_paper_preset_has_exactly_the_published_sizes() -> None:
    config = load_config(["configs/preset/paper.yaml", "configs/stage/asr.yaml"])
    with torch.device("meta"):
        counts = count_parameters(SpeechLM(config.model))
    assert counts == {
        "frontend": 347_296,
        "encoder": 81_918_976,
        "connector": 5_246_464,
        "lm": 2_768_345_600,
    }


def test_a_batch_equals_its_rows_one_by_one(config: Config) -> None:
    model = SpeechLM(config.model).double().eval()
    before, after = torch.randint(0, 99, (2, 4)), torch.randint(0, 99, (2, 5))
    samples, lengths = torch.randn(2, 12800, dtype=torch.float64) * 0.1, torch.tensor([12800, 6400])
    after_lengths = torch.tensor([3, 5])
    speech, _ = model.embed_speech(Padded(samples, lengths))
    batch, _ = model(Padded(before), speech, Padded(after, after_lengths))
    for row in range(2):
        ids = Padded(after[row : row + 1, : after_lengths[row]])
        speech, _ = model.embed_speech(Padded(samples[row : row + 1, : lengths[row]]))
        single, _ = model(Padded(before[row : row + 1]), speech, ids)
        row_of_batch = batch.values[row, : after_lengths[row]]
        torch.testing.assert_close(row_of_batch, single.values[0], atol=1e-10, rtol=0)


def test_the_model_trains_under_autocast(config: Config) -> None:
    model, ids = SpeechLM(config.model), Padded(torch.randint(0, 99, (2, 4)))
    with torch.autocast("cpu", torch.bfloat16):
        speech, _ = model.embed_speech(
            Padded(torch.randn(2, 9600) * 0.1, torch.tensor([9600, 6400]))
        )
        hidden, _ = model(ids, speech, ids)
        loss = model.lm.logits(hidden.values).float().square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_every_part_gets_a_gradient(config: Config) -> None:
    model = SpeechLM(config.model)
    ids = Padded(torch.randint(0, 99, (1, 4)))
    speech, _ = model.embed_speech(Padded(torch.randn(1, 9600) * 0.1))
    hidden, _ = model(ids, speech, ids)
    model.lm.logits(hidden.values).square().sum().backward()
    assert [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ] == []


def test_the_package_exports_its_names_on_first_use() -> None:
    for name in duplexmamba.__all__:
        assert getattr(duplexmamba, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'SpeechLLM'"):
        _ = duplexmamba.SpeechLLM


def test_registries_and_the_model_import_without_transformers() -> None:
    code = (
        "import sys; from duplexmamba import CONNECTORS, LANGUAGE_MODELS, MIXERS, SpeechLM; "
        "assert not {'transformers', 'lightning', 'omegaconf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
