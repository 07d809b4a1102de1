"""Registry of connectors from encoder frames to embeddings of the language model, by `connector.kind`.

A connector is a `Connector`: its method `connect` maps whole windows of frames to embeddings. To add
one, write its class, and an entry here that builds it.
"""

import dataclasses
from collections.abc import Callable

from duplexmamba.config import ConnectorConfig
from duplexmamba.models.connector import (
    Connector,
    ConvConnector,
    CTCConnector,
    MergeConnector,
    StackConnector,
)


@dataclasses.dataclass(frozen=True)
class ConnectorKind:
    """A kind of connector."""

    name: str
    build: Callable[[ConnectorConfig, int, int], Connector]
    """Builds it from the configuration and the widths of encoder and language model."""
    description: str


CONNECTORS = {
    kind.name: kind
    for kind in (
        ConnectorKind(
            "stack", StackConnector, "one embedding, from the frames side by side: as published"
        ),
        ConnectorKind(
            "conv",
            ConvConnector,
            "one embedding, from a strided convolution that also sees the window before",
        ),
        ConnectorKind("ctc", CTCConnector, "one embedding for each new label of the encoder's CTC"),
        ConnectorKind("merge", MergeConnector, "one embedding for each run of similar frames"),
    )
}
"""Every connector by its name."""


def build_connector(config: ConnectorConfig, d_encoder: int, d_lm: int) -> Connector:
    """A connector of the configured kind with random weights.

    Args:
        config: kind and sizes.
        d_encoder: width of encoder frames.
        d_lm: width of the language model.
    """
    return CONNECTORS[config.kind].build(config, d_encoder, d_lm)
