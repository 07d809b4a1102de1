"""One token by a C++ kernel against the general path."""

import os
import shutil

import pytest
import torch
from torch import nn

from configs.schema import Config
from duplexmamba.models.language_models.mamba_lm import MambaLM
from duplexmamba.models.mixers import mamba
from duplexmamba.models.mixers.mamba import MambaMixer, MambaState
from duplexmamba.ops.step_cpp import matrix_vectors
from duplexmamba.streaming import state as states
from duplexmamba.streaming.padded import Padded

pytestmark = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "c++")), reason="no C++ compiler"
)


def mixer_with_state(
    d_model: int, d_state: int, d_conv: int, rows: int
) -> tuple[MambaMixer, MambaState]:
    mixer = MambaMixer(d_model, d_state, d_conv, 2).eval()
    with torch.no_grad():
        _, state = mixer(Padded(torch.randn(rows, 9, d_model)))
    return mixer, state


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """One entry per call of the kernel."""
    called: list[int] = []
    monkeypatch.setattr(
        mamba, "step_cpp", lambda *x, step=mamba.step_cpp: (called.append(1), step(*x))[1]
    )
    return called


@pytest.mark.parametrize(
    ("d_model", "d_state", "d_conv", "rows"),
    [(32, 16, 4, 1), (24, 5, 2, 3), (40, 1, 3, 8), (512, 16, 4, 2)],
)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_step_equals_the_general_path(
    d_model: int, d_state: int, d_conv: int, rows: int, scale: float, calls: list[int]
) -> None:
    torch.set_num_threads(2 if d_model > 100 else 1)
    mixer, state = mixer_with_state(d_model, d_state, d_conv, rows)
    x, before = Padded(torch.randn(rows, 1, d_model) * scale), states.clone(state)
    expected, after = mixer(x, state)
    with torch.inference_mode():
        got, got_after = mixer(x, state)
    assert calls == [1]
    torch.testing.assert_close(got.values, expected.values, atol=1e-5 * scale, rtol=1e-5)
    torch.testing.assert_close(got_after.ssm, after.ssm, atol=1e-5 * scale, rtol=1e-5)
    torch.testing.assert_close(got_after.conv.tail, after.conv.tail, atol=1e-5 * scale, rtol=1e-5)
    assert torch.equal(state.ssm, before.ssm) and torch.equal(state.conv.tail, before.conv.tail)


@pytest.mark.parametrize("shape", [(1, 37, 5), (8, 3, 64), (2, 1100, 515)])
def test_matrix_times_a_few_vectors(shape: tuple[int, int, int]) -> None:
    torch.set_num_threads(2)
    rows, out, columns = shape
    matrix, x = torch.randn(out, columns), torch.randn(rows, columns)
    for laid_out in (matrix, matrix.T.contiguous().T):
        torch.testing.assert_close(matrix_vectors(laid_out, x), x @ matrix.T, atol=1e-4, rtol=1e-5)


def test_logits_of_one_token_equal_those_of_many(config: Config) -> None:
    lm, hidden = MambaLM(config.lm), torch.randn(2, 30, config.lm.d_model)
    with torch.inference_mode():
        one = torch.stack([lm.logits(hidden[:, t]) for t in range(30)], 1)
    torch.testing.assert_close(one, lm.logits(hidden), atol=1e-5, rtol=1e-5)


class Adapted(nn.Linear):
    """A linear layer with an adapter, which the kernel does not know."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1


def test_unsupported_inputs_take_the_general_path(calls: list[int], monkeypatch) -> None:
    mixer, state = mixer_with_state(32, 8, 4, 2)
    x = Padded(torch.randn(2, 1, 32))
    mixer(x, state)
    with torch.inference_mode():
        mixer(Padded(x.values, torch.tensor([1, 0])), state)
        mixer(Padded(torch.randn(2, 2, 32)), state)
        mixer(
            Padded(torch.randn(9, 1, 32)), states.select(state, torch.zeros(9, dtype=torch.int64))
        )
        with torch.autocast("cpu", torch.bfloat16):
            mixer(x, state)
        monkeypatch.setenv("DUPLEXMAMBA_SCAN", "torch")
        mixer(x, state)
        monkeypatch.delenv("DUPLEXMAMBA_SCAN")
        mixer.out_proj.__class__ = Adapted
        mixer(x, state)
        narrow, its_state = mixer_with_state(9, 8, 4, 2)
        narrow(Padded(torch.randn(2, 1, 9)), its_state)
    assert calls == []
