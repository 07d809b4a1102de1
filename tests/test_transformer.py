"""The Transformer language model: against transformers, and as large as the Mamba."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from configs.fingerprint import fingerprint
from configs.loading import load_config, override
from configs.schema import Config
from duplexmamba.models.language_models import (
    LANGUAGE_MODELS,
    LM,
    build_lm,
    check_pretrained,
    load_pretrained,
)
from duplexmamba.models.language_models.transformer_lm import TransformerLM
from duplexmamba.streaming import state as states
from duplexmamba.streaming.padded import Padded, take
from duplexmamba.text.decoding import advance, greedy
from tests.conftest import LM_KINDS, TINY

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 61,
    "initializer_range": 0.3,
}
OVERRIDES = [
    "lm.kind=transformer",
    "lm.d_model=32",
    "lm.num_layers=3",
    "lm.num_heads=4",
    "lm.d_ffn=48",
    "lm.vocab_size=61",
]
NEOX = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
    }
}
LLAMA = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rms_norm_eps": 1e-5}
MODELS = {
    "pythia": ({"tie_word_embeddings": False}, ["lm.tied=false"]),
    "tied": ({}, []),
    "smollm": (
        {"num_key_value_heads": 2},
        ["lm.family=llama", "lm.num_kv_heads=2", "lm.rope_theta=500"],
    ),
    "llama": (
        {"tie_word_embeddings": False},
        ["lm.family=llama", "lm.tied=false", "lm.rope_theta=500"],
    ),
    "in series": (
        {"tie_word_embeddings": False, "use_parallel_residual": False},
        ["lm.tied=false"],
    ),
}
LOADED = ["pythia", "tied", "smollm", "llama"]


def build_reference(name: str) -> PreTrainedModel:
    """Random weights, norms and biases, different in every channel: permutations would show."""
    torch.manual_seed(0)
    settings = {"tie_word_embeddings": True, **SHAPE, **MODELS[name][0]}
    if name in ("smollm", "llama"):
        model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**settings, **LLAMA))
    else:
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**settings, **NEOX))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


@pytest.fixture(params=LOADED)
def pair(
    request: pytest.FixtureRequest, tmp_path: Path, config: Config
) -> tuple[PreTrainedModel, LM]:
    """A model of transformers, and ours with its weights from disk."""
    reference, overrides = build_reference(request.param), MODELS[request.param][1]
    reference.save_pretrained(tmp_path)
    ours = build_lm(override(config, [*OVERRIDES, *overrides]).lm).eval()
    load_pretrained(ours, str(tmp_path))
    return reference, ours


@torch.no_grad()
def test_same_weights_give_the_same_hidden_states_and_logits(
    pair: tuple[PreTrainedModel, LM],
) -> None:
    reference, ours = pair
    ids = torch.randint(61, (2, 17))
    expected = reference(ids, output_hidden_states=True)
    hidden, _ = ours(Padded(ours.embed(ids)))
    torch.testing.assert_close(hidden.values, expected.hidden_states[-1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.logits(hidden.values), expected.logits, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_rows_of_unequal_length_continue_as_single_rows(pair: tuple[PreTrainedModel, LM]) -> None:
    reference, ours = pair
    ids, lengths, new = (
        torch.randint(1, 61, (3, 9)),
        torch.tensor([9, 2, 5]),
        torch.randint(1, 61, (3, 4)),
    )
    _, state = ours(Padded(ours.embed(ids), lengths))
    hidden, _ = ours(Padded(ours.embed(new)), state)
    for row, length in enumerate(lengths):
        single = torch.cat([ids[row, :length], new[row]])[None]
        expected = reference(single, output_hidden_states=True).hidden_states[-1][0, -4:]
        torch.testing.assert_close(hidden.values[row], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_greedy_decoding_equals_that_of_transformers(pair: tuple[PreTrainedModel, LM]) -> None:
    reference, ours = pair
    ids, lengths = torch.randint(1, 61, (2, 9)), torch.tensor([9, 4])
    hidden, state = ours(Padded(ours.embed(ids), lengths))
    tokens = greedy(
        ours, ours.logits(take(hidden.values, lengths - 1, 1)[:, 0]), state, end=-1, max_tokens=6
    )
    for row, length in enumerate(lengths):
        single = reference.generate(
            ids[row : row + 1, :length], max_new_tokens=6, do_sample=False, eos_token_id=None
        )
        assert tokens[row] == single[0, length:].tolist()


PUBLISHED = {
    "pythia-160m": (
        {
            "model_type": "gpt_neox",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "rotary_emb_base": 10000,
            "rotary_pct": 0.25,
            "tie_word_embeddings": False,
            "use_parallel_residual": True,
            "vocab_size": 50304,
            "layer_norm_eps": 1e-05,
            "hidden_act": "gelu",
        },
        ["lm.d_ffn=3072", "lm.tied=false", "lm.vocab_size=50304"],
    ),
    "SmolLM-135M": (
        {
            "model_type": "llama",
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "num_hidden_layers": 30,
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "tie_word_embeddings": True,
            "vocab_size": 49152,
            "rms_norm_eps": 1e-05,
            "hidden_act": "silu",
        },
        [
            "lm.family=llama",
            "lm.d_model=576",
            "lm.num_layers=30",
            "lm.num_heads=9",
            "lm.num_kv_heads=3",
            "lm.d_ffn=1536",
            "lm.vocab_size=49152",
        ],
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_fit(name: str) -> None:
    """Their published configurations agree with preset small and these overrides."""
    published, overrides = PUBLISHED[name]
    config = load_config(["configs/preset/small.yaml", TINY[1], "lm.kind=transformer", *overrides])
    with torch.device("meta"):
        reference = AutoModelForCausalLM.from_config(AutoConfig.for_model(**published))
        ours = build_lm(config.lm)
    ours.check_settings(reference.config, name)
    ours.copy_weights(reference, name)
    assert sum(p.numel() for p in ours.parameters()) == sum(
        p.numel() for p in reference.parameters()
    )


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("pythia", [], "tie_word_embeddings=False, lm.tied asks for True"),
        ("tied", ["lm.num_heads=2"], "num_attention_heads=4, lm.num_heads asks for 2"),
        ("tied", ["lm.d_ffn=64"], "intermediate_size=48, lm.d_ffn asks for 64"),
        ("tied", ["lm.family=llama"], "is a gpt_neox model; lm.family=llama needs a llama model"),
        (
            "smollm",
            ["lm.family=llama", "lm.num_kv_heads=2"],
            "rope_parameters=.*500.*, lm.rope_theta asks for .*10000",
        ),
        ("in series", ["lm.tied=false"], "use_parallel_residual=False.*implies True"),
    ],
)
def test_a_different_model_is_refused(
    name: str, overrides: list[str], message: str, tmp_path: Path, config: Config
) -> None:
    build_reference(name).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"lm.pretrained=.*{message}"):
        load_pretrained(build_lm(override(config, [*OVERRIDES, *overrides]).lm), str(tmp_path))


def test_scaled_rotary_positions_are_refused(tmp_path: Path, config: Config) -> None:
    build_reference("smollm").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    settings = json.loads(file.read_text())
    settings["rope_parameters"] |= {"rope_type": "linear", "factor": 2.0}
    file.write_text(json.dumps(settings))
    lm = build_lm(override(config, [*OVERRIDES, *MODELS["smollm"][1]]).lm)
    with pytest.raises(ValueError, match="rope_parameters=.*linear.*lm.rope_theta asks for"):
        check_pretrained(lm, str(tmp_path))


@torch.no_grad()
@pytest.mark.parametrize("name", ["pythia", "smollm"])
def test_new_tokens_get_rows_of_their_own(name: str, tmp_path: Path, config: Config) -> None:
    """SmolLM has as many embeddings as its tokenizer has ids, and none for the turn states."""
    reference, overrides = build_reference(name), MODELS[name][1]
    reference.save_pretrained(tmp_path)
    sizes = override(config, [*OVERRIDES, *overrides, "lm.vocab_size=64"]).lm
    ours = build_lm(sizes).eval()
    load_pretrained(ours, str(tmp_path))
    ids = torch.randint(61, (2, 17))
    hidden, _ = ours(Padded(ours.embed(ids)))
    logits = ours.logits(hidden.values)
    torch.testing.assert_close(logits[..., :61], reference(ids).logits, atol=1e-4, rtol=1e-5)
    assert len(ours.embeddings.weight) == logits.shape[-1] == 64


def test_a_mamba_refuses_the_weights_of_a_transformer(tmp_path: Path, config: Config) -> None:
    build_reference("tied").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a gpt_neox model; lm.kind=mamba needs a mamba model"):
        load_pretrained(build_lm(config.lm), str(tmp_path))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lm.num_heads=3"], "lm.d_model=32, lm.num_heads=3"),
        (["lm.num_heads=4", "lm.num_kv_heads=3"], "lm.num_kv_heads=3"),
        (["lm.num_heads=0"], "lm.num_heads=0"),
        (["lm.num_heads=8"], "multiple of 8 \\* num_heads"),
    ],
)
def test_heads_that_do_not_divide_are_refused(
    overrides: list[str], message: str, config: Config
) -> None:
    with pytest.raises(ValueError, match=message):
        override(config, [*OVERRIDES, *overrides])
    override(config, [*overrides, "lm.kind=mamba"])


@torch.no_grad()
def test_branches_of_unequal_length_share_a_batch_and_keep_their_own_size(config: Config) -> None:
    lm = build_lm(override(config, OVERRIDES).lm).double().eval()
    steps = torch.randn(2, 20, 32, dtype=torch.float64)
    long, short = (advance(lm, [(steps[i, :n], None)])[0][1] for i, n in enumerate((17, 4)))
    branches = [(steps[0, 17:], long), (steps[1, 4:5], short)]
    for (logits, state), branch in zip(advance(lm, branches), branches, strict=True):
        expected, single = advance(lm, [branch])[0]
        torch.testing.assert_close(logits, expected, atol=1e-10, rtol=0)
        again = [advance(lm, [(steps[0, :2], s)])[0] for s in (state, single)]
        torch.testing.assert_close(again[0][0], again[1][0], atol=1e-10, rtol=0)
        assert states.num_bytes(again[0][1]) == states.num_bytes(again[1][1])


def test_gradients_pass_the_cache(config: Config) -> None:
    lm, x = build_lm(override(config, OVERRIDES).lm), torch.randn(2, 6, 32)
    whole, split = x.clone().requires_grad_(), x.clone().requires_grad_()
    lm(Padded(whole))[0].values[:, -1, :3].square().sum().backward()
    _, state = lm(Padded(split[:, :4], torch.tensor([4, 4])))
    lm(Padded(split[:, 4:]), state)[0].values[:, -1, :3].square().sum().backward()
    assert whole.grad is not None and bool((whole.grad.abs().amax(-1) > 1e-4).all())
    torch.testing.assert_close(split.grad, whole.grad, atol=1e-6, rtol=1e-4)


# Comparison of the kinds of language models


@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
def test_language_models_of_a_preset_are_equally_large(preset: str) -> None:
    counts = {}
    for kind, record in LANGUAGE_MODELS.items():
        if not record.matches_size:
            continue
        config = load_config([f"configs/preset/{preset}.yaml", TINY[1], f"lm.kind={kind}"])
        with torch.device("meta"):
            counts[kind] = sum(p.numel() for p in build_lm(config.lm).parameters())
        assert config.lm.kind == kind and (kind == "mamba" or config.lm.pretrained is None)
    assert all(abs(count / counts["mamba"] - 1) < 0.02 for count in counts.values()), counts


def test_a_kind_sets_its_sizes_and_overrides_come_last(tmp_path: Path) -> None:
    assert load_config([*TINY, "lm.kind=mamba2"]).lm.d_state == 64
    assert load_config([*TINY, "lm.kind=mamba2", "lm.d_state=32"]).lm.d_state == 32
    assert load_config([*TINY, "lm.kind=mamba2"], "lm").lm.d_state == 64
    file = tmp_path / "mine.yaml"
    file.write_text("lm: {kind: transformer}\nkinds: {transformer: {lm: {d_ffn: 64}}}")
    assert load_config([*TINY, str(file)]).lm.d_ffn == 64
    with pytest.raises(ValueError, match="kinds: unknown lm.kind 'mamba3'. Did you mean"):
        load_config([*TINY, "kinds.mamba3.lm.d_state=1"])


def test_fields_of_transformers_change_the_fingerprint_of_transformers_only() -> None:
    names = [
        [fingerprint(load_config([*TINY, f"lm.kind={k}", w])) for w in ("seed=1", "lm.d_ffn=96")]
        for k in LM_KINDS
    ]
    are_unused = ["d_ffn" not in LANGUAGE_MODELS[kind].own_fields for kind in LM_KINDS]
    assert [a == b for a, b in names] == are_unused
    assert dict(zip(LM_KINDS, are_unused, strict=True))["transformer"] is False


def test_the_sweep_compares_equal_sizes_over_three_seeds() -> None:
    sweep = yaml.safe_load(Path("sweeps/lm_baseline.yaml").read_text())
    kinds = sweep["parameters"]["lm.kind"]["values"]
    assert Path(sweep["program"]).is_file() and "mamba" in kinds and len(kinds) > 1
    assert all(LANGUAGE_MODELS[kind].matches_size for kind in kinds)
    fixed = [word for word in sweep["command"] if not word.startswith("${")]
    grid = {name: entry["values"] for name, entry in sweep["parameters"].items()}
    assert len(grid["seed"]) == 3 and grid.keys() == {"lm.kind", "seed"}
    for kind in grid["lm.kind"]:
        config = load_config([*fixed, f"lm.kind={kind}", f"seed={grid['seed'][-1]}"])
        assert isinstance(build_lm(config.lm), nn.Module) and (config.lm.kind, config.seed) == (
            kind,
            3,
        )
        assert isinstance(build_lm(config.lm), TransformerLM) == (kind == "transformer")
