"""Numerical robustness: low precision, extreme steps, silence, clipping, very long contexts."""

import pytest
import torch

from configs.loading import override
from configs.schema import Config
from duplexmamba.models.language_models.mamba_lm import MambaLM
from duplexmamba.models.mixers.mamba import SelectiveSSM
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.ops.scan import selective_scan
from duplexmamba.streaming import state as states
from duplexmamba.streaming.padded import Padded

CONTEXTS = ("causal", "causal_lookahead", "slice")


def floats(state: object) -> list[torch.Tensor]:
    leaves: list[torch.Tensor] = []
    states.map_state(lambda t: leaves.append(t) or t, state)
    return [t for t in leaves if t.is_floating_point()]


def test_bfloat16_weights_keep_a_float32_state(config: Config) -> None:
    exact = MambaLM(config.lm).eval()
    rounded = MambaLM(config.lm).eval().bfloat16()
    rounded.load_state_dict(exact.state_dict())
    ids = torch.randint(0, 99, (2, 60))
    expected, _ = exact(Padded(exact.embed(ids)))
    state, outputs = None, []
    for part in ids.split(7, 1):
        hidden, state = rounded(Padded(rounded.embed(part)), state)
        outputs.append(hidden.values)
    assert {layer.ssm.dtype for layer in state} == {torch.float32}
    assert {layer.conv.tail.dtype for layer in state} == {torch.bfloat16}
    torch.testing.assert_close(torch.cat(outputs, 1).float(), expected.values, atol=0.1, rtol=0.1)


def test_chunks_equal_one_pass_under_autocast(config: Config) -> None:
    model = SpeechLM(config.model).eval()
    samples = torch.randn(1, 16000) * 0.1
    with torch.autocast("cpu", torch.bfloat16):
        expected, _ = model.embed_speech(Padded(samples))
        state, outputs = None, []
        for part in samples.split(1117, 1):
            speech, state = model.embed_speech(Padded(part), state)
            outputs.append(speech.values[:, : int(speech.row_lengths()[0])])
    assert all(block.mixer.ssm.dtype == torch.float32 for block in state.encoder.encoder.blocks)
    torch.testing.assert_close(
        torch.cat(outputs, 1).float(), expected.values.float(), atol=2e-2, rtol=2e-2
    )


def test_features_do_not_change_under_autocast(config: Config) -> None:
    features, samples = SpeechLM(config.model).features, Padded(torch.randn(1, 4000) * 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = features(samples)
    torch.testing.assert_close(output.values, features(samples)[0].values, atol=0, rtol=0)


@pytest.mark.parametrize("path", ["reference", "torch", "cpp"])
@pytest.mark.parametrize("dt", [0.0, 1e-30, 1e-6, 1.0, 1e3, 1e30])
def test_extreme_steps_stay_finite(dt: float, path: str) -> None:
    operands = [torch.randn(2, 40, 16), torch.full((2, 40, 16), dt), -torch.rand(16, 4) * 16 - 1e-3]
    operands += [
        torch.randn(2, 40, 4) * min(1, 1 / max(dt, 1e-30)),
        torch.randn(2, 40, 4),
        torch.ones(16),
    ]
    leaves = [x.requires_grad_() for x in (*operands, torch.randn(2, 4, 16))]
    y, h = selective_scan(*leaves, path=path)
    (y.sum() + h.sum()).backward()
    assert all(x.isfinite().all() for x in (y, h, *(leaf.grad for leaf in leaves)))


def test_context_of_a_hundred_thousand_tokens(config: Config) -> None:
    """The state stays finite, and small chunks continue from it like one large chunk."""
    lm = MambaLM(override(config, ["lm.num_layers=1"]).lm).eval()
    with torch.inference_mode():
        state = None
        for i in range(100):
            ids = torch.randint(0, 99, (1, 1000), generator=torch.Generator().manual_seed(i))
            state_before_last = state
            hidden, state = lm(Padded(lm.embed(ids)), state)
        assert hidden.values.isfinite().all() and all(t.isfinite().all() for t in floats(state))
        chunked_state = state_before_last
        for part in ids.split(37, 1):
            tail, chunked_state = lm(Padded(lm.embed(part)), chunked_state)
    torch.testing.assert_close(
        tail.values, hidden.values[:, -tail.values.shape[1] :], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("level", [0.0, 1.0, 1e4])
def test_silence_clipping_and_extreme_levels_stay_finite(
    level: float, context: str, config: Config
) -> None:
    model = SpeechLM(override(config, [f"encoder.context={context}", "encoder.slice_ms=200"]).model)
    speech, state = model.embed_speech(Padded(torch.randn(1, 32000).sign() * level))
    speech.values.square().sum().backward()
    assert speech.values.isfinite().all() and all(t.isfinite().all() for t in floats(state))
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_time_steps_under_autocast_are_as_exact_as_their_input() -> None:
    """Rounded to bfloat16, the bias alone would make some of them 1 % wrong."""
    ssm = SelectiveSSM(64, 4, 4, 8)
    dt = torch.randn(1, 200, 8).bfloat16()
    expected = torch.nn.functional.softplus(ssm.dt_proj(dt.float()))
    with torch.autocast("cpu", torch.bfloat16):
        result = torch.nn.functional.softplus(ssm._project_dt(dt))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, atol=0, rtol=1e-5)
