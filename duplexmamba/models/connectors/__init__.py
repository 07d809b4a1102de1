"""Registry of connectors, by `connector.kind`.

A connector is a module `forward(x, state) -> (y, state)` from encoder frames (B, T, D) to speech
embeddings (B, S, E). To add one, write a subclass of `Connector` and add a `ConnectorKind` to
`CONNECTORS`.
"""

import dataclasses
from collections.abc import Callable

from duplexmamba.config import ConnectorConfig
from duplexmamba.models.connectors.base import Connector, VariableRateSpeech
from duplexmamba.models.connectors.conv import ConvConnector
from duplexmamba.models.connectors.ctc import CTCConnector
from duplexmamba.models.connectors.merge import MergeConnector
from duplexmamba.models.connectors.stack import StackConnector

__all__ = [
    "CONNECTORS",
    "Connector",
    "ConnectorKind",
    "VariableRateSpeech",
    "build_connector",
]


@dataclasses.dataclass(frozen=True)
class ConnectorKind:
    """A kind of connector, selected by `connector.kind`."""

    name: str
    """Value of `connector.kind`."""
    build: Callable[[ConnectorConfig, int, int], Connector]
    """Build the connector from the configuration, the encoder's and the language model's width."""
    description: str
    """For `duplexmamba config --explain connector.kind`."""
    matches_size: bool = True
    """Whether it has as many parameters as `stack`, to the rounding of a width.

    tests/test_baselines.py checks it where it is true.
    """
    starts_from_ctc_head: bool = False
    """Whether it has a `head` that starts from the CTC head of stage encoder."""


CONNECTORS = {
    kind.name: kind
    for kind in (
        ConnectorKind("stack", StackConnector, "the frames of a window side by side, as published"),
        ConnectorKind("conv", ConvConnector, "a strided convolution over two windows"),
        ConnectorKind(
            "ctc",
            CTCConnector,
            "one embedding for each label of the encoder's CTC",
            starts_from_ctc_head=True,
        ),
        ConnectorKind("merge", MergeConnector, "one embedding for each run of similar frames"),
    )
}
"""All connectors by name."""


def build_connector(config: ConnectorConfig, d_encoder: int, d_lm: int) -> Connector:
    """Build a connector with random weights.

    Args:
        config: its `kind` selects the connector.
        d_encoder: width of encoder frames.
        d_lm: width of the language model's embeddings.
    """
    return CONNECTORS[config.kind].build(config, d_encoder, d_lm)
