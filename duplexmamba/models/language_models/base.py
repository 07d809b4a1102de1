"""The interface of a language model: embeddings in, hidden states and a streaming state out.

Letters in shapes:
    B: rows of the batch
    L: steps
    D: model width
    V: size of the vocabulary
"""

import abc
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from duplexmamba.config import LMConfig
from duplexmamba.streaming.padded import Padded, Positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LMState = Any
"""Streaming state of a language model: a tree of tensors with rows first, see `streaming.state`.

A tuple of `MambaState` or `Mamba2State`, one per layer, or a `KVState`.
"""


class LM(nn.Module, abc.ABC):
    """A causal language model over embeddings."""

    config: LMConfig
    embeddings: nn.Embedding
    """(V, D)"""
    model_type_field: str
    """Field of the section `lm` that names the model_type of transformers which this model is."""

    @property
    def expected_model_type(self) -> str:
        """The model_type of transformers which this model is."""
        return str(getattr(self.config, self.model_type_field))

    def embed(self, ids: Tensor) -> Tensor:
        """(B, L) int64 -> (B, L, D)."""
        return self.embeddings(ids)

    @abc.abstractmethod
    def forward(
        self, x: Padded, state: LMState | None = None, return_states_at: Positions | None = None
    ) -> tuple[Padded, LMState]:
        """Run the model over new steps.

        Args:
            x: (B, L, D) embeddings.
            state: what the previous call returned; None at the start of the sequences.
            return_states_at: return the states at these positions instead of those after each
                row's last step, one row for each position.

        Returns:
            (B, L, D) hidden states, and the state.
        """

    @abc.abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""

    @abc.abstractmethod
    def copy_weights(self, pretrained: "PreTrainedModel", source: str) -> None:
        """Copy the weights of a model of transformers.

        Args:
            pretrained: model of the same architecture.
            source: folder or hub name it comes from, for messages.

        Raises:
            ValueError: a size or a setting differs from the section `lm`.
        """
