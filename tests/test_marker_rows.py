"""Rows of new markers learn while the rest of a language model is frozen."""

import copy
import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import models
from torch import Tensor

from configs.loading import override
from configs.schema import Config
from duplexmamba.models.language_models import LM, build_lm
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.decoding import greedy
from duplexmamba.text.tokenizer import END_OF_TEXT, Tokenizer
from lightning_modules.assembly import learn_marker_rows
from lightning_modules.optim import build_optimizer
from lightning_modules.speech import SpeechStage
from tests.pretrained_models import D_MODEL, save_tiny

IDS = [5, 58, 60]
NEW_IDS = {58, 60}
KINDS = {
    "tied": ["lm.kind=mamba"],
    "untied": ["lm.kind=transformer", "lm.tied=false"],
    "untied hybrid": ["lm.kind=hybrid", "lm.head_dim=16", "lm.tied=false"],
    "tied with a factor": ["granitemoehybrid", "tied"],
    "untied of others": ["nemotron_h"],
}
"""Case -> overrides, or the architecture of lm.kind=pretrained."""


def build(case: str, folder: Path, config: Config) -> LM:
    """A language model of 61 embeddings."""
    first, *rest = KINDS[case]
    if "=" in first:
        overrides = [first, *rest]
    else:
        save_tiny(folder, first, tie_word_embeddings="tied" in rest)
        overrides = ["lm.kind=pretrained", f"lm.pretrained={folder}"]
    overrides = [*overrides, "lm.vocab_size=61", f"lm.d_model={D_MODEL}"]
    return build_lm(override(config, overrides).lm).eval()


def logits_of(lm: LM, ids: Tensor) -> Tensor:
    """(B, L, V) logits."""
    hidden, _ = lm(Padded(lm.embed(ids)))
    return lm.logits(hidden.values)


@pytest.mark.parametrize("case", KINDS)
def test_only_the_rows_of_markers_learn(case: str, tmp_path: Path, config: Config) -> None:
    torch.manual_seed(0)
    lm = build(case, tmp_path, config)
    before = copy.deepcopy(lm.state_dict())
    ids = torch.tensor([[7, 5, 9, 58, 3, 60]])
    with torch.no_grad():
        expected = logits_of(lm, ids)
    lm.requires_grad_(False)
    lm.learn_rows(IDS)
    torch.testing.assert_close(logits_of(lm, ids), expected, atol=1e-5, rtol=1e-5)
    named = [(f"lm.{name}", parameter) for name, parameter in lm.named_parameters()]
    optimizer = build_optimizer(named, config.optim)
    num_matrices = 1 if case.startswith("tied") else 2
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == (
        num_matrices * len(IDS) * D_MODEL
    )
    for _ in range(3):
        logits_of(lm, ids)[:, :, IDS].logsumexp(-1).mean().backward()
        optimizer.step()
    learnt = logits_of(lm, ids).detach()
    assert (learnt - expected).abs().max() > 1e-4
    lm.merge_rows()
    torch.testing.assert_close(logits_of(lm, ids), learnt, atol=1e-5, rtol=1e-5)
    after = lm.state_dict()
    assert after.keys() == before.keys()
    changed = [name for name in after if not torch.equal(after[name], before[name])]
    matrices = [before[name].data_ptr() for name in changed]
    assert len(set(matrices)) == num_matrices
    for name in changed:
        is_changed = (after[name] != before[name]).any(1)
        assert is_changed.nonzero()[:, 0].tolist() == IDS


@torch.no_grad()
def test_rows_that_mean_nothing_start_as_the_mean_of_all(config: Config, tmp_path: Path) -> None:
    lm = build("untied", tmp_path, config)
    lm.embeddings.weight[58:] = 0
    before = lm.embeddings.weight.clone()
    lm.learn_rows(IDS, NEW_IDS)
    lm.merge_rows()
    after = lm.embeddings.weight
    assert torch.equal(after[:58], before[:58])
    assert torch.equal(after[59], before[59])
    new_rows = after[[58, 60]]
    torch.testing.assert_close(new_rows, before.mean(0).expand(2, -1), atol=0.1, rtol=0)
    assert not torch.equal(new_rows[0], new_rows[1])


@torch.no_grad()
def test_decoding_meets_rows_that_are_not_merged_yet(config: Config, tmp_path: Path) -> None:
    lm = build("tied", tmp_path, config)
    lm.learn_rows(IDS)
    assert lm.marker_rows is not None
    lm.marker_rows.embeddings.normal_(0, 30)
    merged = copy.deepcopy(lm)
    merged.merge_rows()
    tokens = []
    for each in (lm, merged):
        hidden, state = each(Padded(each.embed(torch.tensor([[5, 7]]))))
        logits = each.logits(hidden.values[:, -1])
        tokens.append(greedy(each, logits, state, end=-1, max_tokens=6))
    assert tokens[0] == tokens[1]
    assert set(tokens[0][0]) & set(IDS)


def test_they_learn_where_a_pretrained_language_model_is_frozen(
    config: Config, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.train(["some words"] * 3)
    ids = sorted(tokenizer.turn_state_ids.values())
    for overrides, learns in (
        (["lm.pretrained=null"], False),
        (["lm.pretrained=somewhere"], True),
        (["lm.pretrained=somewhere", "stage.trained=[connector,lm]"], False),
    ):
        changed = override(config, overrides)
        model = SpeechLM(changed.model)
        learn_marker_rows(model, changed, tokenizer)
        rows = model.lm.marker_rows
        assert (rows is not None) is learns
        stage = SpeechStage(changed, model, tokenizer)
        trained = [
            name for name, weight in stage.model.lm.named_parameters() if weight.requires_grad
        ]
        if learns:
            assert rows is not None
            assert rows.ids.tolist() == ids
            assert trained == ["marker_rows.embeddings"]
        else:
            assert bool(trained) == ("lm" in changed.stage.trained)


def test_markers_take_the_ids_after_those_of_the_tokenizer(tmp_path: Path) -> None:
    """These are rows that a model was padded with; where it has none, the embedding grows."""
    backend = BackendTokenizer(models.WordLevel({"a": 0, END_OF_TEXT: 1, "?": 2}, unk_token="?"))
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_TEXT})
    )
    loaded = Tokenizer.load(str(tmp_path))
    assert loaded.added_ids == {3, 4, 5} == set(loaded.turn_state_ids.values())
    # known from then on: a later stage goes on with the rows of the stage before
    assert not Tokenizer.from_json(loaded.to_json()).added_ids
