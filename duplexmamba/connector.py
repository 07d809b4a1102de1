"""Encoder frames to language-model embeddings: stack k frames, then two linear layers (SLAM-ASR, arXiv 2402.08846)."""

from torch import nn

from duplexmamba.padded import Carry, Padded, carry
from duplexmamba.schema import ConnectorConfig


class StackConnector(nn.Module):
    """(B, T, D) -> (B, T / k, E)."""

    def __init__(self, config: ConnectorConfig, d_encoder: int, d_lm: int):
        super().__init__()
        self.stack = config.stack
        self.layers = nn.Sequential(
            nn.Linear(config.stack * d_encoder, config.d_hidden), nn.ReLU(), nn.Linear(config.d_hidden, d_lm)
        )

    def forward(self, x: Padded, state: Carry | None = None) -> tuple[Padded, Carry]:
        """Frames left over from a stack wait in the state."""
        window, state = carry(x, state, history=0, hop=self.stack)
        batch, steps, width = window.values.shape
        return window.with_values(self.layers(window.values.reshape(batch, steps // self.stack, -1))), state
