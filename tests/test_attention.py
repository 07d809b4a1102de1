"""Self-attention against its definition, and the Conformer block against that of torchaudio."""

import itertools

import pytest
import torch
from torch import nn

from configs.loading import override
from configs.schema import Config
from duplexmamba.models.mixers import attention, build_block
from duplexmamba.models.mixers.attention import SelfAttention
from duplexmamba.streaming.padded import Padded

DOUBLE = {"atol": 1e-10, "rtol": 0.0}


def visible_steps(step: int, past_steps: int | None, slice_frames: int, total: int) -> range:
    """The steps that a step sees."""
    if past_steps is None:
        return range(total)
    begin = step // slice_frames * slice_frames
    return range(max(0, begin - past_steps), min(total, begin + slice_frames))


def attend_step_by_step(layer: SelfAttention, x: torch.Tensor, slice_frames: int) -> torch.Tensor:
    """(T, D) -> (T, D), computed score by score."""
    q, k, v = (part.unflatten(-1, (layer.num_heads, -1)) for part in layer.in_proj(x).chunk(3, -1))
    q, k = (attention.rotate(part.transpose(0, 1)[None])[0].transpose(0, 1) for part in (q, k))
    rows = []
    for step in range(len(x)):
        visible = list(visible_steps(step, layer.past_steps, slice_frames, len(x)))
        heads = []
        for head in range(layer.num_heads):
            scores = torch.stack([q[step, head] @ k[i, head] for i in visible]) / q.shape[-1] ** 0.5
            heads.append(scores.softmax(0) @ v[visible, head])
        rows.append(torch.cat(heads))
    return layer.out_proj(torch.stack(rows))


@pytest.mark.parametrize("slice_frames", [1, 4, 11])
@pytest.mark.parametrize("past_steps", [None, 0, 3, 8, 50])
def test_attention_equals_its_definition(past_steps: int | None, slice_frames: int) -> None:
    layer, x = (
        SelfAttention(6, 8, 2, past_steps).double(),
        torch.randn(1, 23, 6, dtype=torch.float64),
    )
    output, _ = layer(Padded(x), slice_frames=slice_frames)
    torch.testing.assert_close(
        output.values[0], attend_step_by_step(layer, x[0], slice_frames), **DOUBLE
    )


def test_a_score_depends_only_on_the_distance() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    scores = [attention.rotate(q, i) @ attention.rotate(k, i - 5).mT for i in (5, 6, 100)]
    for one, other in itertools.pairwise(scores):
        torch.testing.assert_close(one, other, **DOUBLE)


def test_gradients_cross_a_chunk_boundary_and_padding_has_none() -> None:
    layer, x = SelfAttention(6, 8, 2, 4), torch.randn(2, 9, 6, requires_grad=True)
    _, state = layer(Padded(x[:, :5], torch.tensor([5, 0])))
    y, _ = layer(Padded(x[:, 5:], torch.tensor([4, 2])), state)
    (y.values[0].sum() + y.values[1, :2].sum()).backward()
    assert bool((x.grad[0, 1:].abs().sum(-1) > 0).all()) and not x.grad[0, 0].any()
    assert not x.grad[1, :5].any() and not x.grad[1, 7:].any() and x.grad.isfinite().all()


def test_the_conformer_block_equals_that_of_torchaudio(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions and the convolution module's norm differ and are replaced; biases are zero."""
    conformer = pytest.importorskip("torchaudio.models.conformer", exc_type=(ImportError, OSError))
    config = override(
        config, ["encoder.mixer=attention", "encoder.context=full", "encoder.dropout=0"]
    )
    c = config.encoder
    block = build_block(c, past_frames=0)
    layer = conformer.ConformerLayer(c.d_model, c.d_ffn, c.num_heads, c.conv_kernel)
    block.mixer = SelfAttention(c.d_model, c.d_model, c.num_heads, None)
    block.conv.after[0] = layer.conv_module.sequential[3] = nn.Identity()
    monkeypatch.setattr(attention, "rotate", lambda x, first=0: x)
    for own, other in ((block.ffn1, layer.ffn1), (block.ffn2, layer.ffn2)):
        own.load_state_dict(other.sequential.state_dict())
    block.norm_mixer.load_state_dict(layer.self_attn_layer_norm.state_dict())
    block.norm.load_state_dict(layer.final_layer_norm.state_dict())
    block.mixer.load_state_dict(
        {
            "in_proj.weight": layer.self_attn.in_proj_weight,
            "out_proj.weight": layer.self_attn.out_proj.weight,
        }
    )
    block.conv.norm.load_state_dict(layer.conv_module.layer_norm.state_dict())
    first, _, depthwise, _, _, last, _ = layer.conv_module.sequential
    for own, other in (
        (block.conv.gated, first),
        (block.conv.conv, depthwise),
        (block.conv.after[2], last),
    ):
        own.load_state_dict(
            {n: w.view_as(own.get_parameter(n)) for n, w in other.state_dict().items()}
        )
    x, lengths = torch.randn(2, 19, c.d_model), torch.tensor([19, 19])
    expected = layer.eval()(x.transpose(0, 1), None).transpose(0, 1)
    torch.testing.assert_close(
        block.eval()(Padded(x, lengths))[0].values, expected, atol=1e-5, rtol=1e-5
    )
