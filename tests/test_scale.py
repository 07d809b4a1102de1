"""Several processes, or activation checkpointing, give the same training as one process."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from torch.utils import checkpoint as torch_checkpoint
from torch.utils._pytree import tree_leaves

from configs.loading import load_config
from configs.schema import Config
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming.padded import Padded
from lightning_modules.trainer.activation_checkpointing import checkpoint_activations
from lightning_modules.trainer.checkpoint import FILE, StageCheckpoint
from tests.conftest import SMALL_SIZES, TINY
from tests.small_runs import SHORT, losses, run, train, train_in_two, write_corpus

SAME_UPDATES = {
    "one": ["trainer.accumulate=2"],
    "two_ranks": ["trainer.devices=2"],
    "sharded": ["trainer.devices=2", "trainer.strategy=fsdp"],
    "recomputed": ["trainer.accumulate=2", "trainer.activation_checkpointing=true"],
}


@pytest.mark.timeout(900)
def test_two_ranks_sharding_and_activation_checkpointing_give_the_weights_of_one_process(
    tmp_path: Path,
) -> None:
    corpus = write_corpus(tmp_path / "corpus", 40)
    fixed = [f"data.path={corpus}", "data.synthetic_share=0", "trainer.matmul_precision=highest"]
    results = {}
    for name, words in SAME_UPDATES.items():
        args = [
            TINY[0],
            "configs/stage/encoder.yaml",
            *SHORT,
            f"run.dir={tmp_path / name}",
            *fixed,
            *words,
        ]
        done = run("train.py", *args)
        assert done.returncode == 0, done.err
        latest = tmp_path / name / "latest"
        results[name] = (
            StageCheckpoint.load(latest / FILE).weights,
            json.loads((latest / "summary.json").read_text()),
        )
    weights, summary = results.pop("one")
    for others, scores in results.values():
        for key, value in weights.items():
            torch.testing.assert_close(others[key], value, atol=2e-5, rtol=2e-4)
        assert [scores[f"test/{name}"] for name in ("wer", "cer")] == [
            summary["test/wer"],
            summary["test/cer"],
        ]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("strategy", "send"), [("ddp", os.killpg), ("fsdp", os.kill)])
def test_two_ranks_resume_after_sigterm_to_the_same_losses(
    tmp_path: Path, strategy: str, send
) -> None:
    """All of them get it, or the first alone."""
    args = [
        f"data.path={write_corpus(tmp_path / 'corpus', 40)}",
        "data.synthetic_share=0",
        "trainer.devices=2",
    ]
    args += ["trainer.max_steps=12", "trainer.checkpoint_every_s=0", f"trainer.strategy={strategy}"]
    whole = train(tmp_path / "whole", *args, stage="encoder")
    assert whole.returncode == 0, whole.err
    train_in_two(tmp_path / "cut", *args, stage="encoder", kill=signal.SIGTERM, send=send)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def step(config: Config, recomputed: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of one step, and bytes that were saved for the backward pass."""
    torch.manual_seed(0)
    model = SpeechLM(config.model).train()
    if recomputed:
        checkpoint_activations(model)
    audio, words = (
        Padded(torch.randn(2, 32000), torch.tensor([32000, 19200])),
        Padded(torch.randint(0, 1024, (2, 5))),
    )
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden, state = model(words, model.embed_speech(audio, final=True)[0], words)
        later, _ = model.lm(Padded(model.lm.embed(words.values)), state)
        loss = hidden.values.square().mean() + later.values.square().mean()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, sum(
        sizes.values()
    )


@pytest.mark.parametrize("lm", ["kind=mamba", "family=gpt_neox", "family=llama"])
def test_activation_checkpointing_gives_the_same_gradients_with_less_memory(lm: str) -> None:
    kind = [] if lm == "kind=mamba" else ["lm.kind=transformer", "lm.num_heads=2", "lm.d_ffn=64"]
    deep = ["encoder.dropout=0.2", "encoder.num_layers=4", "lm.num_layers=4"]
    config = load_config([*TINY, *SMALL_SIZES, *kind, *deep, f"lm.{lm}"])
    (plain, saved), (again, saved_again) = step(config, False), step(config, True)
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, msg=name)
    assert saved_again < 0.7 * saved


@pytest.mark.parametrize(
    "overrides",
    [
        ["encoder.mixer=attention"],
        ["lm.kind=mamba2", "lm.head_dim=16"],
        ["lm.kind=transformer", "lm.num_heads=2"],
        ["lm.kind=transformer", "lm.num_heads=2", "lm.family=llama"],
    ],
    ids=["attention", "mamba2", "gpt_neox", "llama"],
)
def test_torch_finds_the_device_whose_generator_draws_the_dropout_of_a_block(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks for tensors among the arguments, and saves no generator where it finds none."""
    infer, calls = torch_checkpoint._infer_device_type, []

    def note(*args: object) -> str:
        calls.append([leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)])
        return infer(*args)

    monkeypatch.setattr(torch_checkpoint, "_infer_device_type", note)
    config = load_config([*TINY, *SMALL_SIZES, *overrides])
    step(config, recomputed=True)
    # the encoder runs once, the language model twice
    num_runs = config.encoder.num_layers + 2 * config.lm.num_layers
    assert len(calls) == num_runs and all(calls)
