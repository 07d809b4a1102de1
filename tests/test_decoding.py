"""Decoding token by token: steps against whole sequences, CUDA graphs against eager steps."""

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor

from configs.loading import override
from configs.schema import Config
from duplexmamba.models.language_models import LM, LMState, build_lm
from duplexmamba.streaming.padded import Padded
from duplexmamba.streaming.state import clone
from duplexmamba.text import decoding
from duplexmamba.text.decoding import eager_steps, graph_steps, greedy
from tests.conftest import LM_KINDS

KINDS = {"mamba": [], "mamba2": ["lm.kind=mamba2", "lm.head_dim=16"]}
ALL = {kind: [f"lm.kind={kind}", "lm.head_dim=16"] for kind in LM_KINDS}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def build(config: Config, kind: str = "mamba", device: str = "cpu") -> LM:
    torch.manual_seed(0)
    return build_lm(override(config, ["lm.vocab_size=61", *ALL[kind]]).lm).to(device).eval()


@torch.no_grad()
def prefill(lm: LM, rows: int, seed: int = 0) -> tuple[Tensor, LMState]:
    """Logits (B, V) and state after 7 random tokens."""
    ids = torch.randint(61, (rows, 7), generator=torch.Generator().manual_seed(seed))
    hidden, state = lm(Padded(lm.embed(ids.to(lm.embeddings.weight.device))))
    return lm.logits(hidden.values[:, -1]), state


@pytest.fixture
def fake_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the capture of a CUDA graph by a function that runs again into the same tensor."""

    def capture(run, device):
        result = run().clone()
        return lambda: result.copy_(run()), result

    monkeypatch.setattr(decoding, "_capture", capture)


@torch.no_grad()
def take_steps(step: decoding.Step, tokens: Tensor) -> Tensor:
    return torch.stack([step(column).clone() for column in tokens.T], 1)


@pytest.mark.parametrize("kind", ALL)
def test_steps_equal_one_pass(config: Config, kind: str) -> None:
    lm, ids = build(config, kind).double(), torch.randint(61, (2, 9))
    with torch.no_grad():
        expected = lm.logits(lm(Padded(lm.embed(ids)))[0].values)
        _, state = lm(Padded(lm.embed(ids[:, :3])))
    torch.testing.assert_close(
        take_steps(eager_steps(lm, state), ids[:, 3:]), expected[:, 3:], atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_graph_steps_equal_eager_steps_and_do_not_change_the_state(
    config: Config, kind: str, fake_capture: None
) -> None:
    lm, tokens = build(config, kind), torch.randint(61, (2, 5))
    for seed in range(2):  # captured, then used again
        _, state = prefill(lm, 2, seed)
        before = clone(state)
        expected = take_steps(eager_steps(lm, state), tokens)
        assert torch.equal(take_steps(graph_steps(lm, state), tokens), expected)
        assert all(
            torch.equal(a, b)
            for a, b in zip(decoding._leaves(state), decoding._leaves(before), strict=True)
        )
    assert len(decoding._model_graphs[lm].graphs) == 1


def test_graph_captured_in_inference_mode_works_outside_of_it(
    config: Config, fake_capture: None
) -> None:
    lm, tokens = build(config), torch.randint(61, (2, 5))
    with torch.inference_mode():
        inside = take_steps(graph_steps(lm, prefill(lm, 2)[1]), tokens)
    assert torch.equal(take_steps(graph_steps(lm, prefill(lm, 2)[1]), tokens), inside)


def test_one_graph_per_batch_size_and_precision_and_at_most_num_graphs(
    config: Config, fake_capture: None
) -> None:
    lm = build(config)
    for rows in (1, 2, 2, 3):
        graph_steps(lm, prefill(lm, rows)[1])
    assert len(decoding._model_graphs[lm].graphs) == 3
    with torch.autocast("cpu", torch.bfloat16):
        graph_steps(lm, prefill(lm, 3)[1])
    assert len(decoding._model_graphs[lm].graphs) == 4
    newest = list(decoding._model_graphs[lm].graphs)[1:]
    graph_steps(lm, prefill(lm, 5)[1])
    assert list(decoding._model_graphs[lm].graphs)[:-1] == newest


def test_moved_weights_need_a_new_graph_and_changed_weights_do_not(
    config: Config, fake_capture: None
) -> None:
    lm, tokens = build(config), torch.randint(61, (2, 5))
    _, state = prefill(lm, 2)
    graph_steps(lm, state)
    [graph] = decoding._model_graphs[lm].graphs.values()
    with torch.no_grad():
        lm.norm_f.weight.mul_(2)
    assert torch.equal(
        take_steps(graph_steps(lm, state), tokens), take_steps(eager_steps(lm, state), tokens)
    )
    assert list(decoding._model_graphs[lm].graphs.values()) == [graph]
    lm.norm_f.weight.data = lm.norm_f.weight.data.clone()
    graph_steps(lm, state)
    assert graph not in decoding._model_graphs[lm].graphs.values()


def test_graphs_are_freed_with_their_model(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_capture", lambda run, device: (lambda: None, run()))
    lm = build(config)
    graph_steps(lm, prefill(lm, 1)[1])
    [graph] = decoding._model_graphs[lm].graphs.values()
    lm_gone, graph_gone = weakref.ref(lm), weakref.ref(graph)
    del lm, graph
    gc.collect()
    assert lm_gone() is None and graph_gone() is None


@pytest.mark.parametrize("kind", ALL)
def test_greedy_ends_each_row_at_its_end_token(config: Config, kind: str) -> None:
    lm = build(config, kind)
    logits, state = prefill(lm, 3)
    free = greedy(lm, logits, state, end=-1, max_tokens=6)
    assert [len(row) for row in free] == [6, 6, 6]
    end = free[0][2]
    ended = greedy(lm, logits, state, end, max_tokens=6)
    assert ended == [row[: row.index(end)] if end in row else row for row in free]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 3])
def test_graph_equals_eager_on_a_gpu(config: Config, kind: str, precision: str, rows: int) -> None:
    lm, tokens = build(config, kind, "cuda"), torch.randint(61, (rows, 8), device="cuda")
    lm = lm.bfloat16() if precision == "bfloat16" else lm
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == "autocast"):
        for seed in range(3):
            logits, state = prefill(lm, rows, seed)
            graph = take_steps(graph_steps(lm, state), tokens)
            torch.testing.assert_close(graph, take_steps(eager_steps(lm, state), tokens))
        torch.cuda.empty_cache()  # what a graph reads must still be there
        again = take_steps(graph_steps(lm, state), tokens)
    assert torch.equal(again, graph)
    assert greedy(lm, logits, state, 0, 5) == greedy(lm, logits, clone(state), 0, 5)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("kind", ALL)
def test_decoding_on_a_gpu_equals_the_cpu(config: Config, kind: str) -> None:
    lm = build(config, kind)
    expected = greedy(lm, *prefill(lm, 3), end=0, max_tokens=8)
    assert greedy(lm.cuda(), *prefill(lm, 3), end=0, max_tokens=8) == expected


def run_benchmark(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/gpu.py", *args], capture_output=True, text=True
    )


@pytest.mark.timeout(60)
def test_gpu_benchmark_writes_its_numbers(tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    done = run_benchmark("--smoke", "--json", str(file))
    assert done.returncode == 0, done.stderr
    numbers = json.loads(file.read_text())
    assert {
        "gpu/scan/torch/l512_ms",
        "gpu/scan/torch/l2048_ms",
        "gpu/train/small_tokens_per_s",
        "gpu/decode/2.8b_b1_ms",
        "gpu/decode/2.8b_b64_ms",
        "gpu/decode/2.8b_bound_ms",
    } <= set(numbers)
    assert all(value > 0 for value in numbers.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_gpu_benchmark_names_what_it_needs() -> None:
    done = run_benchmark()
    assert done.returncode == 2 and not done.stdout
    [sentence] = done.stderr.splitlines()
    assert "GPU" in sentence and "--smoke" in sentence
