"""Mamba language models against those of transformers with the same weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
)

from configs.loading import override
from configs.schema import Config
from duplexmamba.models.language_models import MambaLM, check_pretrained, load_pretrained
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.decoding import greedy

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "state_size": 8,
    "vocab_size": 61,
    "initializer_range": 0.3,
}
HEADS = {"num_heads": 4, "head_dim": 16, "chunk_size": 16}
OVERRIDES = ["lm.d_model=32", "lm.num_layers=3", "lm.d_state=8", "lm.vocab_size=61"]
MAMBA2 = [*OVERRIDES, "lm.kind=mamba2", "lm.head_dim=16"]
KINDS = {"mamba": OVERRIDES, "mamba2": MAMBA2, "mamba2 of 2 groups": [*MAMBA2, "lm.num_groups=2"]}


def build_reference(kind: str, tie: bool = True) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "mamba":
        return MambaForCausalLM(MambaConfig(**SHAPE)).eval()
    groups = 2 if "groups" in kind else 1
    return Mamba2ForCausalLM(
        Mamba2Config(**SHAPE, **HEADS, n_groups=groups, tie_word_embeddings=tie)
    ).eval()


@pytest.fixture(params=KINDS)
def reference(
    request: pytest.FixtureRequest, tmp_path: Path, config: Config
) -> tuple[PreTrainedModel, Path, Config]:
    """A model of transformers, the folder it is saved in, and the configuration that fits it."""
    model = build_reference(request.param)
    with torch.no_grad():  # different in every channel, or permutations would not show
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(tmp_path)
    return model, tmp_path, override(config, KINDS[request.param])


def test_same_weights_give_the_same_logits(reference: tuple[PreTrainedModel, Path, Config]) -> None:
    model, folder, config = reference
    lm = MambaLM(config.lm)
    load_pretrained(lm, str(folder))
    ids = torch.randint(0, 61, (2, 17))
    with torch.no_grad():
        expected = model(ids).logits
        hidden, _ = lm(Padded(lm.embed(ids)))
    torch.testing.assert_close(lm.logits(hidden.values), expected, atol=1e-5, rtol=1e-5)


def test_greedy_decoding_equals_that_of_transformers(
    reference: tuple[PreTrainedModel, Path, Config],
) -> None:
    model, folder, config = reference
    lm = MambaLM(config.lm)
    load_pretrained(lm, str(folder))
    ids = torch.randint(1, 61, (2, 9))
    expected = model.generate(
        ids, max_new_tokens=6, do_sample=False, eos_token_id=0, pad_token_id=0
    )[:, 9:]
    with torch.no_grad():
        hidden, state = lm(Padded(lm.embed(ids)))
        tokens = greedy(lm, lm.logits(hidden.values[:, -1]), state, end=0, max_tokens=6)
    assert tokens == [[t for t in row if t != 0] for row in expected.tolist()]


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("mamba", [*OVERRIDES, "lm.d_state=16"], "state_size=8, lm.d_state asks for 16; make them"),
        ("mamba", [*OVERRIDES, "lm.d_model=64"], "hidden_size=32, lm.d_model asks for 64"),
        ("mamba", [*OVERRIDES, "lm.num_layers=2"], "num_hidden_layers=3, lm.num_layers asks"),
        ("mamba", [*OVERRIDES, "lm.vocab_size=60"], "61 embeddings.*; set lm.vocab_size=61"),
        ("mamba", MAMBA2, "is a mamba model; lm.kind=mamba2"),
        ("mamba2", OVERRIDES, "is a mamba2 model; lm.kind=mamba "),
        ("mamba2", [*MAMBA2, "lm.head_dim=32"], "head_dim=16, lm.head_dim asks for 32"),
        ("mamba2", [*MAMBA2, "lm.num_groups=2"], "n_groups=1, lm.num_groups asks for 2"),
    ],
)
def test_a_model_of_another_shape_is_refused(
    kind: str, overrides: list[str], message: str, tmp_path: Path, config: Config
) -> None:
    build_reference(kind).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_pretrained(MambaLM(override(config, overrides).lm), str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [
        ("mamba", "layer_norm_epsilon", 1e-2),
        ("mamba", "hidden_act", "gelu"),
        ("mamba", "time_step_rank", 5),
        ("mamba", "use_bias", True),
        ("mamba", "mixer_rms_eps", 1e-6),
        ("mamba", "architectures", ["FalconMambaForCausalLM"]),
        ("mamba2", "layer_norm_epsilon", 1e-2),
        ("mamba2", "hidden_act", "gelu"),
        ("mamba2", "time_step_limit", [0.001, 0.1]),
    ],
)
def test_a_setting_that_changes_the_function_is_refused_before_weights_are_read(
    kind: str, setting: str, value: object, tmp_path: Path, config: Config
) -> None:
    build_reference(kind).save_pretrained(tmp_path)
    with torch.device("meta"):
        lm = MambaLM(override(config, KINDS[kind]).lm)
    check_pretrained(lm, str(tmp_path))
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), setting: value}))
    name = "FalconMamba" if setting == "architectures" else setting
    with pytest.raises(ValueError, match=f"lm.pretrained=.*{name}"):
        check_pretrained(lm, str(tmp_path))


def test_new_tokens_get_rows_of_their_own(
    reference: tuple[PreTrainedModel, Path, Config],
) -> None:
    model, folder, config = reference
    lm = MambaLM(override(config, ["lm.vocab_size=64"]).lm)
    load_pretrained(lm, str(folder))
    ids = torch.randint(0, 61, (2, 17))
    with torch.no_grad():
        hidden, _ = lm(Padded(lm.embed(ids)))
        logits = lm.logits(hidden.values)
        expected = model(ids).logits
    torch.testing.assert_close(logits[..., :61], expected, atol=1e-5, rtol=1e-5)
    # as likely as an average token, and unlike each other
    torch.testing.assert_close(logits[..., 61:].mean(-1), expected.mean(-1), atol=0.5, rtol=0)
    assert len(lm.embeddings.weight[61:].unique(dim=0)) == 3


def test_weights_that_are_missing_or_unknown_are_named(tmp_path: Path, config: Config) -> None:
    build_reference("mamba").save_pretrained(tmp_path)
    lm = MambaLM(override(config, OVERRIDES).lm)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    name = "backbone.layers.1.mixer.A_log"
    weights["backbone.layers.1.mixer.A_exp"] = weights.pop(name)
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=f"missing {name}; unexpected .*A_exp; copy or download"):
        load_pretrained(lm, str(tmp_path))


def test_a_missing_part_of_the_weights_is_named_before_any_is_read(
    tmp_path: Path, config: Config
) -> None:
    build_reference("mamba").save_pretrained(tmp_path, max_shard_size="20KB")
    lm = MambaLM(override(config, OVERRIDES).lm)
    load_pretrained(lm, str(tmp_path))
    part = sorted(tmp_path.glob("model-*.safetensors"))[1]
    part.unlink()
    with pytest.raises(ValueError, match=f"lacks {part.name}, which model.safetensors.index"):
        check_pretrained(lm, str(tmp_path))
    for file in tmp_path.glob("model*"):
        file.unlink()
    with pytest.raises(ValueError, match="has no weights"):
        check_pretrained(lm, str(tmp_path))


def test_a_model_with_an_output_matrix_of_its_own_is_refused(
    tmp_path: Path, config: Config
) -> None:
    model = build_reference("mamba2", tie=False)
    lm = MambaLM(override(config, MAMBA2).lm)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lm_head that differs from its embeddings"):
        load_pretrained(lm, str(tmp_path))
    model.lm_head.weight.data.copy_(model.backbone.embeddings.weight)
    model.save_pretrained(tmp_path)
    load_pretrained(lm, str(tmp_path))


@pytest.mark.parametrize("overrides", [["lm.head_dim=48"], ["lm.head_dim=32", "lm.num_groups=3"]])
def test_channels_that_do_not_divide_into_heads_are_refused(
    overrides: list[str], config: Config
) -> None:
    with pytest.raises(ValueError, match=r"lm.head_dim=.* in lm.num_groups=\d.* multiple of"):
        override(config, [*MAMBA2, *overrides])
    override(config, [*OVERRIDES, *overrides])


def test_a_folder_without_a_model_is_refused(tmp_path: Path, config: Config) -> None:
    with pytest.raises(ValueError, match="lm.pretrained=.*no readable"):
        load_pretrained(MambaLM(config.lm), str(tmp_path))


def test_another_kind_of_model_is_refused(tmp_path: Path, config: Config) -> None:
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=11)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="is a gpt2 model"):
        load_pretrained(MambaLM(config.lm), str(tmp_path))
