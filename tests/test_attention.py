"""Self-attention against its definition, step by step, and the Conformer's block against torchaudio's."""

import itertools

import pytest
import torch
from torch import nn

from configs.loading import override
from configs.schema import Config
from duplexmamba.models import attention
from duplexmamba.models.attention import SelfAttention
from duplexmamba.models.blocks import ConvBlock
from duplexmamba.streaming.padded import Padded

DOUBLE = {"atol": 1e-10, "rtol": 0.0}


def seen_from(step: int, past_steps: int | None, slice_steps: int, total: int) -> range:
    """The steps that a step sees."""
    if past_steps is None:
        return range(total)
    begin = step // slice_steps * slice_steps
    return range(max(0, begin - past_steps), min(total, begin + slice_steps))


def literally(room: SelfAttention, x: torch.Tensor, slice_steps: int) -> torch.Tensor:
    """(T, D) -> (T, D), a score at a time."""
    q, k, v = (part.unflatten(-1, (room.num_heads, -1)) for part in room.in_proj(x).chunk(3, -1))
    q, k = (attention.rotate(part.transpose(0, 1)[None])[0].transpose(0, 1) for part in (q, k))
    rows = []
    for step in range(len(x)):
        seen = list(seen_from(step, room.past_steps, slice_steps, len(x)))
        heads = []
        for head in range(room.num_heads):
            scores = torch.stack([q[step, head] @ k[i, head] for i in seen]) / q.shape[-1] ** 0.5
            heads.append(scores.softmax(0) @ v[seen, head])
        rows.append(torch.cat(heads))
    return room.out_proj(torch.stack(rows))


@pytest.mark.parametrize("slice_steps", [1, 4, 11])
@pytest.mark.parametrize("past_steps", [None, 0, 3, 8, 50])
def test_attention_is_its_definition(past_steps: int | None, slice_steps: int) -> None:
    room, x = (
        SelfAttention(6, 8, 2, past_steps).double(),
        torch.randn(1, 23, 6, dtype=torch.float64),
    )
    got, _ = room(Padded(x), slice_steps=slice_steps)
    torch.testing.assert_close(got.values[0], literally(room, x[0], slice_steps), **DOUBLE)


def test_a_score_depends_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    scores = [attention.rotate(q, i) @ attention.rotate(k, i - 5).mT for i in (5, 6, 100)]
    for one, other in itertools.pairwise(scores):
        torch.testing.assert_close(one, other, **DOUBLE)


def test_gradients_pass_the_border_of_two_chunks_and_padding_gives_none() -> None:
    room, x = SelfAttention(6, 8, 2, 4), torch.randn(2, 9, 6, requires_grad=True)
    _, state = room(Padded(x[:, :5], torch.tensor([5, 0])))
    y, _ = room(Padded(x[:, 5:], torch.tensor([4, 2])), state)
    (y.values[0].sum() + y.values[1, :2].sum()).backward()
    assert bool((x.grad[0, 1:].abs().sum(-1) > 0).all()) and not x.grad[0, 0].any()
    assert not x.grad[1, :5].any() and not x.grad[1, 7:].any() and x.grad.isfinite().all()


def test_the_conformer_is_torchaudios(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs has no positions, biases in attention, and another norm in the convolution module; the rest is equal."""
    theirs = pytest.importorskip("torchaudio.models.conformer", exc_type=(ImportError, OSError))
    config = override(
        config, ["encoder.mixer=attention", "encoder.context=full", "encoder.dropout=0"]
    )
    c = config.encoder
    ours, layer = (
        ConvBlock(c, 0),
        theirs.ConformerLayer(c.d_model, c.d_ffn, c.num_heads, c.conv_kernel),
    )
    ours.mixer = SelfAttention(c.d_model, c.d_model, c.num_heads, None)
    ours.conv.after[0] = layer.conv_module.sequential[3] = nn.Identity()
    monkeypatch.setattr(attention, "rotate", lambda x, first=0: x)
    for mine, other in ((ours.ffn1, layer.ffn1), (ours.ffn2, layer.ffn2)):
        mine.load_state_dict(other.sequential.state_dict())
    ours.norm_mixer.load_state_dict(layer.self_attn_layer_norm.state_dict())
    ours.norm.load_state_dict(layer.final_layer_norm.state_dict())
    ours.mixer.load_state_dict(
        {
            "in_proj.weight": layer.self_attn.in_proj_weight,
            "out_proj.weight": layer.self_attn.out_proj.weight,
        }
    )
    ours.conv.norm.load_state_dict(layer.conv_module.layer_norm.state_dict())
    first, _, depthwise, _, _, last, _ = layer.conv_module.sequential
    for mine, other in (
        (ours.conv.gated, first),
        (ours.conv.conv, depthwise),
        (ours.conv.after[2], last),
    ):
        mine.load_state_dict(
            {n: w.view_as(mine.get_parameter(n)) for n, w in other.state_dict().items()}
        )
    x, lengths = torch.randn(2, 19, c.d_model), torch.tensor([19, 19])
    expected = layer.eval()(x.transpose(0, 1), None).transpose(0, 1)
    torch.testing.assert_close(
        ours.eval()(Padded(x, lengths))[0].values, expected, atol=1e-5, rtol=1e-5
    )
