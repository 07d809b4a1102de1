"""Base of all connectors: whole windows of encoder frames become speech embeddings.

Letters in shapes:
    B: rows of the batch
    T: encoder frames
    U: windows of a row
    k: frames of a window
    D: width of encoder frames
    S: speech embeddings
    E: width of the language model

Every window is connected independently. A connector therefore streams exactly, and its state holds
no more than the frames of a window that is not full yet (and, for some, the window before it).
"""

import abc
import dataclasses

from torch import Tensor, nn

from duplexmamba.config import ConnectorConfig
from duplexmamba.models.sizes import ALIGNMENT, nearest_multiple
from duplexmamba.streaming.buffer import StreamBuffer, stream_windows
from duplexmamba.streaming.padded import Padded


@dataclasses.dataclass(frozen=True)
class VariableRateSpeech(Padded):
    """Speech embeddings (B, S, E) whose number differs from window to window."""

    counts: Tensor = dataclasses.field(kw_only=True)
    """(B, U) int64: embeddings of each window, 1 to k; 0 past the end of a row."""


class Connector(nn.Module, abc.ABC):
    """(B, T, D) -> (B, S, E)."""

    history = 0
    """Frames before a window that the connector sees as well."""

    def __init__(self, config: ConnectorConfig):
        super().__init__()
        self.stack = config.stack

    def forward(self, x: Padded, state: StreamBuffer | None = None) -> tuple[Padded, StreamBuffer]:
        """Connect the windows that are full; the other frames stay in the state.

        Args:
            x: (B, T, D) encoder frames.
            state: what the previous chunk of the stream returned; None at its start.

        Returns:
            (B, S, E), and the state for the next chunk.
        """
        frames, state = stream_windows(x, state, self.history, self.stack)
        return self.connect(frames), state

    @abc.abstractmethod
    def connect(self, frames: Padded) -> Padded:
        """Compute the embeddings of whole windows.

        Args:
            frames: (B, history + U k, D), with `lengths` in windows.

        Returns:
            (B, S, E), with `lengths` in embeddings.
        """


def matched_width(
    config: ConnectorConfig, d_encoder: int, d_lm: int, d_in: int, num_extra: int = 0
) -> int:
    """Return the hidden width with which a connector has as many parameters as `StackConnector`.

    Args:
        config: connector section of the configuration; its d_hidden is that of `StackConnector`.
        d_encoder: D.
        d_lm: E.
        d_in: inputs of the hidden layer.
        num_extra: parameters outside the hidden and the output layer.
    """
    # one hidden channel has its input weights, a bias and its output weights
    per_channel_of_stack = config.stack * d_encoder + 1 + d_lm
    target = per_channel_of_stack * config.d_hidden - num_extra
    return nearest_multiple(target / (d_in + 1 + d_lm), ALIGNMENT)
