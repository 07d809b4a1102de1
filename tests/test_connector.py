"""Every kind of connector against its definition; test_streaming covers how they stream."""

import pytest
import torch
import torch.nn.functional as F

from configs.loading import override
from configs.schema import Config
from duplexmamba.models.connectors import CONNECTORS, VariableRateSpeech, build_connector
from duplexmamba.models.connectors.ctc import BLANK_SHARE, CTCConnector
from duplexmamba.streaming.padded import Padded

DOUBLE = {"atol": 1e-10, "rtol": 0.0}


def build(config: Config, kind: str):
    """A connector over frames of width 8, with windows of 5."""
    config = override(config, [f"connector.kind={kind}", "connector.merge_threshold=0"])
    return build_connector(config.connector, 8, 12).double().eval()


def frames(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 8, dtype=torch.float64)


@torch.no_grad()
def groups_of(connector, window: torch.Tensor) -> list[list[tuple[int, float]]]:
    """Frames (index, weight) of each embedding of one window (k, D), determined frame by frame."""
    groups: list[list[tuple[int, float]]] = []
    blank = 0.0
    for i, frame in enumerate(window):
        if isinstance(connector, CTCConnector):
            p = connector.head(window).softmax(-1)
            begins = bool(p[i].argmax() != p[i - 1].argmax() and p[i].argmax() != 0)
            blank = float(p[i, 0])
        else:
            begins = (
                i > 0
                and float(F.cosine_similarity(frame, window[i - 1], 0)) <= connector.merge_threshold
            )
        if i == 0 or begins:
            groups.append([])
        groups[-1].append((i, 1 - (1 - BLANK_SHARE) * blank))
    return groups


@pytest.mark.parametrize("kind", ["ctc", "merge"])
def test_an_embedding_is_the_weighted_mean_of_its_frames(config: Config, kind: str) -> None:
    connector, x = build(config, kind), frames(2, 20)
    if kind == "ctc":
        connector.head.bias.data[0] += 2  # blanks, as a trained head predicts
    speech, _ = connector(Padded(x))
    assert isinstance(speech, VariableRateSpeech)
    for row in range(2):
        expected, counts = [], []
        for window in x[row].split(5):
            groups = groups_of(connector, window)
            counts.append(len(groups))
            for group in groups:
                total = sum(weight for _, weight in group)
                expected.append(
                    connector.layers(sum(weight / total * window[i] for i, weight in group))
                )
        assert speech.counts[row].tolist() == counts and int(speech.row_lengths()[row]) == sum(
            counts
        )
        torch.testing.assert_close(
            speech.values[row, : sum(counts)], torch.stack(expected), **DOUBLE
        )
    assert 4 < int(speech.counts.sum()) < 40  # some frames are merged, and some are not


def test_similar_frames_are_merged_and_different_ones_are_not(config: Config) -> None:
    connector = build(config, "merge")
    one = frames(1, 1)
    assert connector(Padded(one.repeat(1, 10, 1)))[0].counts.tolist() == [[1, 1]]
    assert connector(Padded(torch.cat([one, -one] * 5, 1)))[0].counts.tolist() == [[5, 5]]


def test_a_window_of_blanks_gives_the_mean_of_its_frames(config: Config) -> None:
    """Silence reaches the language model as well."""
    connector, x = build(config, "ctc"), frames(1, 10)
    connector.head.bias.data[0] += 1000
    speech, _ = connector(Padded(x))
    assert speech.counts.tolist() == [[1, 1]]
    torch.testing.assert_close(
        speech.values, connector.layers(x.unflatten(1, (2, 5)).mean(2)), **DOUBLE
    )


def test_a_convolution_sees_the_preceding_window(config: Config) -> None:
    connector, x = build(config, "conv"), frames(1, 15).requires_grad_()
    speech, _ = connector(Padded(x))
    assert speech.values.shape == (1, 3, 12)
    speech.values[0, 2].sum().backward()
    assert not x.grad[0, :5].any() and bool((x.grad[0, 5:].abs().sum(-1) > 0).all())


@pytest.mark.parametrize("kind", CONNECTORS)
def test_every_weight_gets_a_gradient(config: Config, kind: str) -> None:
    connector = build(config, kind)
    connector(Padded(frames(2, 20)))[0].values.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in connector.parameters())
