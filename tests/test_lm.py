"""Our language model against transformers' with the same weights."""

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from duplexmamba.config import Config, override
from duplexmamba.lm import MambaLM, greedy, load_pretrained
from duplexmamba.padded import Padded

SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 8, "vocab_size": 61}
OVERRIDES = ["lm.d_model=32", "lm.num_layers=3", "lm.d_state=8", "lm.vocab_size=61"]


@pytest.fixture
def theirs(tmp_path: Path) -> tuple[MambaForCausalLM, Path]:
    model = MambaForCausalLM(MambaConfig(**SHAPE, initializer_range=0.3)).eval()
    model.save_pretrained(tmp_path)
    return model, tmp_path


def test_same_weights_give_the_same_logits(theirs: tuple[MambaForCausalLM, Path], config: Config) -> None:
    model, folder = theirs
    lm = MambaLM(override(config, OVERRIDES).lm)
    load_pretrained(lm, str(folder))
    ids = torch.randint(0, 61, (2, 17))
    with torch.no_grad():
        expected = model(ids).logits
        hidden, _ = lm(Padded(lm.embed(ids)))
    torch.testing.assert_close(lm.logits(hidden.values), expected, atol=1e-5, rtol=1e-5)


def test_greedy_is_what_transformers_generates(theirs: tuple[MambaForCausalLM, Path], config: Config) -> None:
    model, folder = theirs
    lm = MambaLM(override(config, OVERRIDES).lm)
    load_pretrained(lm, str(folder))
    ids = torch.randint(1, 61, (2, 9))
    expected = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=0, pad_token_id=0)[:, 9:]
    with torch.no_grad():
        hidden, state = lm(Padded(lm.embed(ids)))
        got = greedy(lm, lm.logits(hidden.values[:, -1]), state, end=0, max_tokens=6)
    assert got == [[t for t in row if t != 0] for row in expected.tolist()]


def test_a_model_of_another_shape_is_refused(theirs: tuple[MambaForCausalLM, Path], config: Config) -> None:
    lm = MambaLM(override(config, [*OVERRIDES, "lm.d_state=16"]).lm)
    with pytest.raises(ValueError, match="A_log is .*make them agree"):
        load_pretrained(lm, str(theirs[1]))


def test_a_folder_without_a_model_is_refused(tmp_path: Path, config: Config) -> None:
    with pytest.raises(ValueError, match="lm.pretrained=.*no readable"):
        load_pretrained(MambaLM(config.lm), str(tmp_path))


def test_another_kind_of_model_is_refused(tmp_path: Path, config: Config) -> None:
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=11)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a gpt2 model"):
        load_pretrained(MambaLM(config.lm), str(tmp_path))
