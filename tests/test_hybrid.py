"""The hybrid language model: against transformers with the same weights, and its patterns."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from configs.fingerprint import fingerprint
from configs.loading import load_config, override
from configs.schema import Config
from duplexmamba.models.language_models import LM, build_lm, check_pretrained, load_pretrained
from duplexmamba.models.language_models.hybrid_lm import MLP
from duplexmamba.models.mixers.causal_attention import CausalAttention
from duplexmamba.models.mixers.mamba2 import Mamba2Mixer
from duplexmamba.streaming import state as states
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.decoding import advance
from tests.conftest import TINY
from tests.pretrained_models import SETTINGS, save_tiny

OVERRIDES = [
    "lm.kind=hybrid",
    "lm.d_model=32",
    "lm.d_state=8",
    "lm.head_dim=8",
    "lm.num_groups=2",
    "lm.num_heads=4",
    "lm.num_kv_heads=2",
    "lm.vocab_size=61",
]
PAIRED = ["lm.pattern='M-*-'", "lm.num_layers=4"]
GRANITE = [*OVERRIDES, *PAIRED, "lm.d_ffn=16", "lm.hybrid_family=granitemoehybrid"]
NEMOTRON = [
    *OVERRIDES,
    "lm.pattern='M-*M'",
    "lm.num_layers=4",
    "lm.d_ffn=48",
    "lm.hybrid_family=nemotron_h",
]
BAMBA = [*OVERRIDES, *PAIRED, "lm.d_ffn=48", "lm.hybrid_family=bamba"]
DENSE = {"num_local_experts": 0, "position_embedding_type": "nope", "rms_norm_eps": 1e-5}
FACTORS = {
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.4,
}
SINGLE = {
    "layers_block_type": ["mamba", "mlp", "attention", "mamba"],
    "time_step_min": 0.001,
    "tie_word_embeddings": False,
}
MODELS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "granite": ("granitemoehybrid", DENSE | FACTORS, [*GRANITE, "lm.tied=false"]),
    "granite tied": (
        "granitemoehybrid",
        {**DENSE, **FACTORS, "tie_word_embeddings": True},
        GRANITE,
    ),
    "nemotron": ("nemotron_h", SINGLE, [*NEMOTRON, "lm.tied=false"]),
    "bamba": ("bamba", {"rms_norm_eps": 1e-5}, [*BAMBA, "lm.tied=false"]),
}
"""Name -> model_type, settings beside those of tests/pretrained_models.py, overrides that fit."""


def hybrid(overrides: list[str]) -> LM:
    """A hybrid language model with random weights."""
    return build_lm(override(load_config(list(TINY)), overrides).lm).eval()


@pytest.fixture(params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[PreTrainedModel, LM]:
    """A model of transformers, and ours with its weights from disk."""
    model_type, settings, overrides = MODELS[request.param]
    reference = save_tiny(tmp_path, model_type, **settings)
    ours = hybrid(overrides)
    load_pretrained(ours, str(tmp_path))
    return reference, ours


@torch.no_grad()
def test_same_weights_give_the_same_logits(pair: tuple[PreTrainedModel, LM]) -> None:
    """Whole, and in pieces from a state."""
    reference, ours = pair
    ids = torch.randint(1, 61, (2, 17))
    expected = reference(ids).logits
    x = ours.embed(ids)
    hidden, _ = ours(Padded(x))
    scale = expected.abs().max()
    assert (ours.logits(hidden.values) - expected).abs().max() < 1e-5 * scale
    parts = []
    state = None
    for piece in x.split([1, 6, 1, 9], 1):
        hidden, state = ours(Padded(piece), state)
        parts.append(ours.logits(hidden.values))
    assert (torch.cat(parts, 1) - expected).abs().max() < 1e-5 * scale


@torch.no_grad()
def test_new_tokens_grow_both_matrices(tmp_path: Path) -> None:
    reference = save_tiny(tmp_path, "nemotron_h", **SINGLE)
    ours = hybrid([*NEMOTRON, "lm.tied=false", "lm.vocab_size=64"])
    load_pretrained(ours, str(tmp_path))
    ids = torch.randint(1, 61, (1, 5))
    hidden, _ = ours(Padded(ours.embed(ids)))
    logits = ours.logits(hidden.values)
    assert logits.shape[-1] == 64
    torch.testing.assert_close(logits[..., :61], reference(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "setting", "value", "message"),
    [
        ("granite", "num_local_experts", 4, "num_local_experts=4.*lm.kind=pretrained"),
        ("granite", "position_embedding_type", "rope", "='?rope.*lm.kind=pretrained"),
        ("granite", "rms_norm_eps", 1e-2, "rms_norm_eps=0.01.*lm.kind=pretrained"),
        ("granite", "mamba_d_state", 16, "mamba_d_state=16, lm.d_state asks for 8"),
        ("granite", "num_key_value_heads", 4, "lm.num_kv_heads asks for 2"),
        ("nemotron", "time_step_min", 0.1, "time_step_min=0.1.*lm.kind=pretrained"),
        ("nemotron", "head_dim", 16, "head_dim=16.*lm.kind=pretrained"),
        (
            "nemotron",
            "layers_block_type",
            ["mamba", "moe", "attention", "mamba"],
            "mixtures of experts: take lm.kind=pretrained",
        ),
        (
            "nemotron",
            "layers_block_type",
            ["mamba", "attention"],
            r"layers M\*, .*set lm.pattern='M\*' lm.num_layers=2",
        ),
        ("bamba", "vocab_size", 70, "set lm.vocab_size=70"),
    ],
)
def test_a_model_that_computes_something_else_is_refused_before_weights_are_read(
    name: str, setting: str, value: object, message: str, tmp_path: Path
) -> None:
    model_type, settings, overrides = MODELS[name]
    save_tiny(tmp_path, model_type, **settings)
    with torch.device("meta"):
        ours = hybrid(overrides)
    assert check_pretrained(ours, str(tmp_path)) == 0
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    if setting == "layers_block_type":
        values["num_hidden_layers"] = len(values.pop("layer_types", value))
    file.write_text(json.dumps({**values, setting: value}))
    with pytest.raises(ValueError, match=f"lm.pretrained=.*{message}"):
        check_pretrained(ours, str(tmp_path))


def test_another_hybrid_is_referred_to_the_kind_that_runs_it(tmp_path: Path) -> None:
    save_tiny(tmp_path, "jamba")
    with pytest.raises(ValueError, match="is a jamba model.*lm.kind=pretrained runs it as it is"):
        check_pretrained(hybrid(GRANITE), str(tmp_path))
    assert "jamba" in SETTINGS


def test_a_pattern_is_repeated_until_the_number_of_layers() -> None:
    lm = hybrid([*OVERRIDES, "lm.pattern='M*-'", "lm.num_layers=5", "lm.d_ffn=16"])
    kinds = [type(layer.mixer) for layer in lm.layers]
    assert kinds == [Mamba2Mixer, CausalAttention, MLP, Mamba2Mixer, CausalAttention]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lm.pattern=MX"], "lm.pattern='MX'"),
        (["lm.pattern='*M'", "lm.num_layers=1"], "lm.num_layers=1: letters are M"),
        (["lm.pattern=''"], "lm.pattern=''"),
        (["lm.num_heads=16"], r"multiple of 4 \* num_heads"),
        (["lm.num_kv_heads=3"], "num_heads one of num_kv_heads"),
        (["lm.attention_window=0"], "lm.attention_window=0: need at least 1"),
        (["lm.head_dim=48"], "make them a multiple of"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    overrides: list[str], message: str, config: Config
) -> None:
    with pytest.raises(ValueError, match=message):
        override(config, [*OVERRIDES, *overrides])
    override(config, [*overrides, "lm.kind=mamba"])


@torch.no_grad()
@pytest.mark.parametrize("window", ["null", "6"])
def test_branches_of_unequal_past_share_a_batch(window: str) -> None:
    """Branches of a conversation as rows of one batch, each as if it were alone."""
    lm = hybrid([*GRANITE, f"lm.attention_window={window}"]).double()
    steps = torch.randn(2, 20, 32, dtype=torch.float64)
    long = advance(lm, [(steps[0, :17], None)])[0][1]
    short = advance(lm, [(steps[1, :4], None)])[0][1]
    before = states.clone(long)
    branches = [(steps[0, 17:], long), (steps[1, 4:5], short), (steps[1, :1], long)]
    for (logits, state), branch in zip(advance(lm, branches), branches, strict=True):
        expected, alone = advance(lm, [branch])[0]
        torch.testing.assert_close(logits, expected, atol=1e-10, rtol=0)
        again, expected_again = [advance(lm, [(steps[0, :2], s)])[0] for s in (state, alone)]
        torch.testing.assert_close(again[0], expected_again[0], atol=1e-10, rtol=0)

    def compare(leaf: torch.Tensor, expected_leaf: torch.Tensor) -> torch.Tensor:
        assert torch.equal(leaf, expected_leaf)
        return leaf

    states._map(compare, long, before)


@torch.no_grad()
def test_a_step_sees_the_window_and_no_further() -> None:
    attention = CausalAttention(16, 2, 1, window=4, rotary_share=0.5, rotary_base=1e4).double()
    x = torch.randn(1, 12, 16, dtype=torch.float64)
    whole, _ = attention(Padded(x))
    for start, is_equal in ((7, True), (8, False)):
        part, _ = attention(Padded(x[:, start:]))
        equal = torch.allclose(part.values[:, -1], whole.values[:, -1], atol=1e-10)
        assert equal is is_equal


def test_gradients_pass_the_state() -> None:
    lm = hybrid([*NEMOTRON, "lm.attention_window=3"])
    x = torch.randn(2, 7, 32)
    gradients = []
    for sizes in ([7], [4, 1, 2]):
        steps = x.clone().requires_grad_()
        state = None
        for piece in steps.split(sizes, 1):
            hidden, state = lm(Padded(piece), state)
        loss = hidden.values[:, -1, :3].square().sum()
        gradients.append(torch.autograd.grad(loss, steps)[0])
    assert bool((gradients[0].abs().amax(-1) > 1e-5).all())
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-3)


def test_only_a_hybrid_depends_on_its_own_fields() -> None:
    changed = ["lm.pattern=M-", "lm.attention_window=9", "lm.hybrid_family=bamba"]
    for kind in ("mamba", "transformer", "hybrid"):
        names = {
            fingerprint(load_config([*TINY, f"lm.kind={kind}", setting]))
            for setting in ["seed=1", *changed]
        }
        assert len(names) == (4 if kind == "hybrid" else 1)
