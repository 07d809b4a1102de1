"""Stacking connector: the frames of a window side by side, then two linear layers.

Source: SLAM-ASR, arXiv 2402.08846; DuplexMamba, arXiv 2502.11123. Letters as in `base`.
"""

from torch import nn

from duplexmamba.config import ConnectorConfig
from duplexmamba.models.connectors.base import Connector
from duplexmamba.streaming.padded import Padded


class StackConnector(Connector):
    """(B, T, D) -> (B, T / k, E): one embedding per window."""

    def __init__(self, config: ConnectorConfig, d_encoder: int, d_lm: int):
        super().__init__(config)
        self.layers = nn.Sequential(
            nn.Linear(config.stack * d_encoder, config.d_hidden),
            nn.ReLU(),
            nn.Linear(config.d_hidden, d_lm),
        )

    def connect(self, frames: Padded) -> Padded:
        """(B, U k, D) -> (B, U, E)."""
        windows = frames.values.unflatten(1, (-1, self.stack))  # (B, U, k, D)
        stacked = windows.flatten(2)  # (B, U, k D)
        return frames.with_values(self.layers(stacked))
