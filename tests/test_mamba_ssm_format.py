"""Models in the folders in which state-spaces published them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Mamba2Config, Mamba2ForCausalLM, MambaConfig, MambaForCausalLM

from configs.loading import load_config
from duplexmamba.config import LMConfig
from duplexmamba.models.language_models import build_lm, load_pretrained
from duplexmamba.models.language_models.mamba_ssm_format import (
    open_mamba_ssm,
    read_mamba_ssm_config,
)
from duplexmamba.streaming.padded import Padded
from tests.conftest import TINY

SIZES = {
    "d_model": 32,
    "num_layers": 2,
    "d_state": 8,
    "head_dim": 8,
    "num_groups": 1,
    "vocab_size": 64,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "mamba": {"ssm_cfg": {"d_state": 8}},
    "mamba2": {"ssm_cfg": {"layer": "Mamba2", "d_state": 8, "headdim": 8}},
}


def lm_config(kind: str, source: Path) -> LMConfig:
    base = load_config(list(TINY)).model.lm
    return dataclasses.replace(base, kind=kind, pretrained=str(source), **SIZES)


def write_folder(
    folder: Path, kind: str, dtype: torch.dtype = torch.float32, **values: Any
) -> MambaForCausalLM | Mamba2ForCausalLM:
    """Write a folder of mamba_ssm, and return the same model of transformers."""
    torch.manual_seed(0)
    common = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 8,
        "vocab_size": 64,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
    }
    model: MambaForCausalLM | Mamba2ForCausalLM
    if kind == "mamba":
        model = MambaForCausalLM(MambaConfig(**common))
    else:
        model = Mamba2ForCausalLM(Mamba2Config(**common, num_heads=8, head_dim=8, n_groups=1))
    model = model.to(dtype).float().eval()
    config = {
        "d_model": 32,
        "n_layer": 2,
        "vocab_size": 61,
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
        "tie_embeddings": True,
        **CONFIGS[kind],
        **values,
    }
    (folder / "config.json").write_text(json.dumps(config))
    weights = {}
    for name, weight in model.state_dict().items():
        weights[name.replace("embeddings.", "embedding.")] = weight.to(dtype)
    torch.save(weights, folder / "pytorch_model.bin")
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_a_folder_of_mamba_ssm_loads_as_what_it_is(
    kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    reference = write_folder(tmp_path, kind, dtype)
    ours = build_lm(lm_config(kind, tmp_path)).eval()
    load_pretrained(ours, str(tmp_path))
    ids = torch.randint(1, 64, (2, 13))
    hidden, _ = ours(Padded(ours.embed(ids)))
    expected = reference(ids).logits
    torch.testing.assert_close(ours.logits(hidden.values), expected, atol=1e-4, rtol=1e-4)
    assert ours.embeddings.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ssm_cfg": {"layer": "Mamba3"}}, r"ssm_cfg\.layer=Mamba3"),
        ({"ssm_cfg": {"d_states": 8}}, r"ssm_cfg\.d_states=8.*known are d_state"),
        ({"attn_layer_idx": [1]}, r"attn_layer_idx=\[1\]"),
        ({"rms_norm": False}, "rms_norm=False"),
        (CONFIGS["mamba2"], "is a mamba2 model"),
    ],
)
def test_what_does_not_fit_is_named(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_folder(tmp_path, "mamba", **values)
    if values is CONFIGS["mamba2"]:
        write_folder(tmp_path, "mamba2")
    ours = build_lm(lm_config("mamba", tmp_path))
    with pytest.raises(ValueError, match=message):
        load_pretrained(ours, str(tmp_path))


def test_weights_that_do_not_fit_and_missing_ones_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path, "mamba", n_layer=3)
    values = read_mamba_ssm_config(str(tmp_path))
    assert values is not None
    with pytest.raises(ValueError, match=r"does not fit its config\.json.*layers\.2"):
        open_mamba_ssm(values, str(tmp_path))
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match=r"has no pytorch_model\.bin"):
        open_mamba_ssm(values, str(tmp_path))
