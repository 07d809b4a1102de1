"""Language models of transformers: their cache as a value, exact in pieces, forks and batches."""

import copy
import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from configs.loading import load_config
from duplexmamba.config import LMConfig
from duplexmamba.models.language_models import LM, build_lm, load_pretrained
from duplexmamba.models.language_models.architectures import ARCHITECTURES, REFUSED
from duplexmamba.models.language_models.pretrained_lm import PretrainedLM
from duplexmamba.models.lora import adapters, merge
from duplexmamba.streaming import state as states
from duplexmamba.streaming.padded import Padded, Positions, take
from duplexmamba.text.decoding import advance, greedy
from lightning_modules.trainer.activation_checkpointing import checkpoint_activations
from tests.conftest import TINY
from tests.pretrained_models import D_MODEL, SETTINGS, VOCAB_SIZE, save_tiny

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


def lm_config(source: Path | str, **fields: Any) -> LMConfig:
    """Section lm of a model in a folder."""
    base = load_config(list(TINY)).model.lm
    sizes = {"d_model": D_MODEL, "vocab_size": VOCAB_SIZE, **fields}
    return dataclasses.replace(base, kind="pretrained", pretrained=str(source), **sizes)


@functools.cache
def pair(name: str) -> tuple[PreTrainedModel, LM]:
    """A model of transformers, and ours with its weights from disk."""
    with tempfile.TemporaryDirectory() as folder:
        reference = save_tiny(Path(folder), name)
        ours = build_lm(lm_config(folder)).eval()
        load_pretrained(ours, folder)
    return reference, ours


def embedded(ours: LM, batch_size: int, num_steps: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """(B, L) ids and their (B, L, D) embeddings."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCAB_SIZE, (batch_size, num_steps), generator=generator)
    return ids, ours.embed(ids).detach()


def assert_same_state(state: Any, expected: Any) -> None:
    """Equal up to rounding, in every tensor."""

    def compare(leaf: Tensor, expected_leaf: Tensor) -> Tensor:
        torch.testing.assert_close(leaf, expected_leaf, **TOLERANCE)
        return leaf

    states._map(compare, state, expected)


def test_every_architecture_has_a_tiny_model() -> None:
    assert SETTINGS.keys() == ARCHITECTURES.keys()
    assert not REFUSED.keys() & ARCHITECTURES.keys()


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_pieces_of_any_length_give_what_one_forward_gives(name: str) -> None:
    reference, ours = pair(name)
    ids, x = embedded(ours, 2, 17)
    whole, whole_state = ours(Padded(x))
    torch.testing.assert_close(ours.logits(whole.values), reference(ids).logits, **TOLERANCE)
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        cuts = sorted({0, 1, *torch.randint(2, 17, (4,), generator=generator).tolist()})
        state = None
        parts = []
        for piece in torch.tensor_split(x, cuts, 1):
            hidden, new_state = ours(Padded(piece, torch.full((2,), piece.shape[1])), state)
            parts.append(hidden.values[:, : piece.shape[1]])
            state = new_state
        torch.testing.assert_close(torch.cat(parts, 1), whole.values, **TOLERANCE)
        assert_same_state(state, whole_state)


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_rows_of_unequal_past_and_length_are_as_each_alone(name: str) -> None:
    _, ours = pair(name)
    _, x = embedded(ours, 4, 9)
    past_lengths = torch.tensor([9, 2, 5, 0])
    new_lengths = torch.tensor([3, 1, 4, 4])
    _, state = ours(Padded(x, past_lengths))
    _, new = embedded(ours, 4, 4, seed=2)
    hidden, after = ours(Padded(new, new_lengths), state)
    for row in range(4):
        past = x[row : row + 1, : past_lengths[row]]
        steps = new[row : row + 1, : new_lengths[row]]
        alone, alone_state = ours(Padded(torch.cat([past, steps], 1)))
        expected = alone.values[0, past_lengths[row] :]
        torch.testing.assert_close(hidden.values[row, : new_lengths[row]], expected, **TOLERANCE)
        _, next_step = embedded(ours, 1, 1, seed=3)
        one_row = states.select(after, torch.tensor([row]))
        continued, _ = ours(Padded(next_step), one_row)
        expected_next, _ = ours(Padded(next_step), alone_state)
        torch.testing.assert_close(continued.values, expected_next.values, **TOLERANCE)


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_states_within_a_row_are_forks_and_nothing_changes_them(name: str) -> None:
    _, ours = pair(name)
    _, x = embedded(ours, 2, 7)
    positions = Positions(torch.tensor([1, 0, 1, 0]), torch.tensor([3, 0, 7, 5]))
    _, forks = ours(Padded(x, torch.tensor([6, 7])), return_states_at=positions)
    before = states.clone(forks)
    _, new = embedded(ours, 4, 2, seed=2)
    hidden, _ = ours(Padded(new), forks)
    assert_same_state(forks, before)
    for index, (row, step) in enumerate(zip(positions.rows, positions.steps, strict=True)):
        whole = torch.cat([x[row, :step], new[index]])[None]
        expected, _ = ours(Padded(whole))
        torch.testing.assert_close(hidden.values[index], expected.values[0, step:], **TOLERANCE)


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_the_past_matters_in_these_models(name: str) -> None:
    """Otherwise the tests above would pass with a state that is lost."""
    _, ours = pair(name)
    _, x = embedded(ours, 1, 6)
    whole, _ = ours(Padded(x))
    alone, _ = ours(Padded(x[:, 4:]))
    assert (whole.values[:, 4:] - alone.values).abs().max() > 0.05


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_flow_through_states_as_within_one_forward(name: str) -> None:
    """Also where the blocks are computed again in the backward pass."""
    _, ours = pair(name)
    _, x = embedded(ours, 2, 6)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

    def gradient(lm: LM, sizes: list[int]) -> Tensor:
        steps = x.clone().requires_grad_()
        state = None
        loss = torch.zeros(())
        for piece, piece_weights in zip(
            steps.split(sizes, 1), weights.split(sizes, 1), strict=True
        ):
            hidden, state = lm(Padded(piece), state)
            loss = loss + (hidden.values * piece_weights).sum()
        return torch.autograd.grad(loss, steps)[0]

    whole = gradient(ours, [6])
    recomputing = copy.deepcopy(ours)
    checkpoint_activations(recomputing)
    for lm in (ours, recomputing):
        pieces = gradient(lm, [3, 1, 2])
        scale = whole.abs().max()
        torch.testing.assert_close(pieces / scale, whole / scale, **TOLERANCE)


@pytest.mark.parametrize("name", ["llama", "mamba", "bamba", "qwen3_next"])
def test_greedy_decoding_equals_that_of_transformers(name: str) -> None:
    reference, ours = pair(name)
    ids, x = embedded(ours, 2, 9)
    lengths = torch.tensor([9, 4])
    with torch.no_grad():
        hidden, state = ours(Padded(x, lengths))
        logits = ours.logits(take(hidden.values, lengths - 1, 1)[:, 0])
    tokens = greedy(ours, logits, state, end=-1, max_tokens=4)
    for row, length in enumerate(lengths):
        prompt = ids[row : row + 1, :length]
        generated = reference.generate(
            prompt, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert tokens[row] == generated[0, length:].tolist()


def test_branches_of_a_session_step_as_rows_of_one_batch() -> None:
    _, ours = pair("granitemoehybrid")
    _, x = embedded(ours, 2, 8)
    branches = []
    expected = []
    for row, (past, length) in enumerate([(5, 3), (2, 1)]):
        with torch.no_grad():
            _, state = ours(Padded(x[row : row + 1, :past]))
            whole, _ = ours(Padded(x[row : row + 1, : past + length]))
        branches.append((x[row, past : past + length], state))
        expected.append(ours.logits(whole.values[0, -1]))
    results = advance(ours, branches)
    for (logits, _), expected_logits in zip(results, expected, strict=True):
        torch.testing.assert_close(logits, expected_logits, **TOLERANCE)


def test_new_tokens_grow_the_embedding_and_leave_the_others(tmp_path: Path) -> None:
    reference = save_tiny(tmp_path, "llama")
    ours = build_lm(lm_config(tmp_path, vocab_size=VOCAB_SIZE + 3)).eval()
    load_pretrained(ours, str(tmp_path))
    ids, x = embedded(ours, 1, 5)
    with torch.no_grad():
        hidden, _ = ours(Padded(x))
        logits = ours.logits(hidden.values)
        expected = reference(ids).logits
    assert logits.shape[-1] == VOCAB_SIZE + 3
    torch.testing.assert_close(logits[..., :VOCAB_SIZE], expected, **TOLERANCE)
    new_rows = ours.embeddings.weight[VOCAB_SIZE:]
    mean = ours.embeddings.weight[:VOCAB_SIZE].mean(0)
    torch.testing.assert_close(new_rows, mean.expand(3, -1), atol=0.1, rtol=0)
    assert not torch.equal(new_rows[0], new_rows[1])


def test_weights_in_shards_of_bfloat16_become_float32(tmp_path: Path) -> None:
    reference = save_tiny(tmp_path / "whole", "qwen3").bfloat16()
    reference.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len([*(tmp_path / "shards").glob("*.safetensors")]) > 1
    ours = build_lm(lm_config(tmp_path / "shards"))
    load_pretrained(ours, str(tmp_path / "shards"))
    assert {weight.dtype for weight in ours.parameters()} == {torch.float32}
    expected = reference.get_input_embeddings().weight.float()
    torch.testing.assert_close(ours.embeddings.weight, expected, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 64}, "hidden_size=32; set lm.d_model=32"),
        ({"vocab_size": 50}, "vocab_size=61; set lm.vocab_size=61"),
    ],
)
def test_sizes_that_differ_are_named(tmp_path: Path, fields: dict[str, int], message: str) -> None:
    AutoConfig.for_model("llama", hidden_size=32, vocab_size=61).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        build_lm(lm_config(tmp_path, **fields))


@pytest.mark.parametrize("name", REFUSED)
def test_architectures_that_cannot_be_carried_are_refused_by_name(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "{name}"}}')
    with pytest.raises(ValueError, match=f"is a {name} model.*does not carry"):
        build_lm(lm_config(tmp_path))


def test_sliding_windows_are_refused(tmp_path: Path) -> None:
    settings = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    config = AutoConfig.for_model("qwen3", hidden_size=32, vocab_size=61, **settings)
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="qwen3 model.*DynamicSlidingWindowLayer"):
        build_lm(lm_config(tmp_path))


def test_a_folder_without_a_model_and_a_missing_weight_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no readable folder of that name"):
        build_lm(lm_config(tmp_path))
    with pytest.raises(ValueError, match=r"lm\.pretrained=null and lm\.kind=pretrained"):
        load_config([*TINY, "lm.kind=pretrained", "lm.pretrained=null"])
    save_tiny(tmp_path, "llama")
    ours = build_lm(lm_config(tmp_path))
    save_tiny(tmp_path, "llama", num_hidden_layers=1)
    ours.model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"missing or have another shape.*layers\.1"):
        load_pretrained(ours, str(tmp_path))


def test_limits_of_the_time_step_hold_in_single_steps() -> None:
    """The library leaves them out there; with limits off, this model gives other results."""
    _, ours = pair("nemotron_h")
    assert isinstance(ours, PretrainedLM)
    _, x = embedded(ours, 1, 4)
    with torch.no_grad():
        limited, _ = ours(Padded(x))
        mixer = ours.model.base_model.layers[0].mixer
        limits = mixer.time_step_limit
        mixer.time_step_limit = (0.0, float("inf"))
        free, _ = ours(Padded(x))
        mixer.time_step_limit = limits
    assert (limited.values - free.values).abs().max() > 0.01


@torch.no_grad()
def test_limits_of_the_time_step_hold_with_adapters_and_after_merging() -> None:
    _, original = pair("nemotron_h")
    ours = copy.deepcopy(original)
    settings = peft.LoraConfig(r=2, target_modules=["in_proj"], init_lora_weights=False)
    peft.inject_adapter_in_model(settings, ours)
    assert adapters(ours)
    _, x = embedded(ours, 1, 5)

    def in_pieces() -> Tensor:
        state = None
        parts = []
        for piece in x.split([2, 1, 1, 1], 1):
            hidden, state = ours(Padded(piece), state)
            parts.append(hidden.values)
        return torch.cat(parts, 1)

    adapted, _ = ours(Padded(x))
    torch.testing.assert_close(in_pieces(), adapted.values, **TOLERANCE)
    merge(ours)
    torch.testing.assert_close(in_pieces(), adapted.values, **TOLERANCE)
    plain, _ = original(Padded(x))
    assert (plain.values - adapted.values).abs().max() > 0.01


@pytest.mark.parametrize("name", ["mamba2", "granitemoehybrid", "qwen3_next"])
@torch.no_grad()
def test_recurrent_states_stay_float32_under_autocast(name: str) -> None:
    _, ours = pair(name)
    _, x = embedded(ours, 2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        _, state = ours(Padded(x[:, :3]))
        _, after = ours(Padded(x[:, 3:]), state)
    for layer in (*state.layers, *after.layers):
        assert all(leaf.dtype == torch.float32 for leaf in layer.recurrents or ())
