"""Convolutional connector: a strided convolution over two windows, then a linear layer.

Letters as in `base`.
"""

import torch.nn.functional as F
from torch import nn

from duplexmamba.config import ConnectorConfig
from duplexmamba.models.connectors.base import Connector, matched_width
from duplexmamba.streaming.padded import Padded


class ConvConnector(Connector):
    """(B, T, D) -> (B, T / k, E): one embedding per window, from it and the one before."""

    def __init__(self, config: ConnectorConfig, d_encoder: int, d_lm: int):
        super().__init__(config)
        self.history = config.stack
        kernel_size = 2 * config.stack
        d_hidden = matched_width(config, d_encoder, d_lm, kernel_size * d_encoder)
        self.conv = nn.Conv1d(d_encoder, d_hidden, kernel_size, stride=config.stack)
        self.out = nn.Linear(d_hidden, d_lm)

    def connect(self, frames: Padded) -> Padded:
        """(B, k + U k, D) -> (B, U, E)."""
        hidden = self.conv(frames.values.mT).mT  # (B, U, d_hidden)
        return frames.with_values(self.out(F.relu(hidden)))
