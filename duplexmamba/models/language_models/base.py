"""The interface of a language model: embeddings in, hidden states and a streaming state out.

Letters in shapes:
    B: rows of the batch
    L: steps
    D: model width
    V: size of the vocabulary
"""

import abc
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from duplexmamba.config import LMConfig
from duplexmamba.models.language_models.marker_rows import MarkerRows
from duplexmamba.streaming.padded import Padded, Positions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

INITIAL_STD = 0.02
"""Standard deviation of embeddings with random weights."""

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

    marker_rows: MarkerRows | None
    """Rows that learn while the model is frozen; None where there are none."""
    logits_factor = 1.0
    """What the product with the output matrix is multiplied by."""

    def __init__(self) -> None:
        super().__init__()
        self.marker_rows = None

    @property
    def output_matrix(self) -> Tensor:
        """(V, D), by which logits are computed: the embedding matrix, unless a model differs."""
        return self.embeddings.weight

    def embed(self, ids: Tensor) -> Tensor:
        """(B, L) int64 -> (B, L, D)."""
        embedded = self.embeddings(ids)
        if self.marker_rows is None:
            return embedded
        return self.marker_rows.embed(ids, embedded)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        logits = self.compute_logits(hidden)
        if self.marker_rows is None:
            return logits
        return self.marker_rows.replace_logits(logits, hidden, self.logits_factor)

    def learn_rows(self, ids: Sequence[int], new_ids: Collection[int] = ()) -> None:
        """Give the rows of some ids parameters of their own, which `merge_rows` undoes.

        Args:
            ids: of markers.
            new_ids: those among them whose rows mean nothing yet.
        """
        self.marker_rows = MarkerRows(ids, new_ids, self.embeddings.weight, self.output_matrix)

    def merge_rows(self) -> None:
        """Write the rows of `learn_rows`, if there are any, into the matrices, in place."""
        if self.marker_rows is None:
            return
        self.marker_rows.write_into(self.embeddings.weight, self.output_matrix)
        self.marker_rows = None

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
    def compute_logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V), a new tensor, by the output matrix."""

    def check_settings(self, settings: "PreTrainedConfig", source: str) -> None:
        """Check that a model of transformers computes the same function as this one.

        It reads no weights, and may be called on the meta device. A language model that takes
        everything from the settings has nothing to compare.

        Args:
            settings: configuration of the model, whose model_type is the right one.
            source: folder or hub name it comes from, for messages.

        Raises:
            ValueError: a setting differs from the section `lm`, or from what this model can do.
        """

    @abc.abstractmethod
    def copy_weights(self, pretrained: "PreTrainedModel", source: str) -> None:
        """Copy the weights of a model of transformers.

        Args:
            pretrained: model of the same architecture, whose settings have been checked. It may have
                fewer rows in its embedding matrix; see `grown`.
            source: folder or hub name it comes from, for messages.

        Raises:
            ValueError: a weight does not fit.
        """


def check_setting(source: str, setting: str, value: Any, origin: str, own_value: Any) -> None:
    """Check a setting of a pretrained model.

    Args:
        source: folder or hub name of the model.
        setting: its name in transformers.
        value: what the model has.
        origin: what determines our value, such as "lm.d_ffn asks for".
        own_value: our value.

    Raises:
        ValueError: the two differ.
    """
    if value != own_value:
        raise ValueError(
            f"lm.pretrained={source!r} has {setting}={value}, {origin} {own_value}; "
            "make them agree, or choose another model"
        )


def check_rows(source: str, num_pretrained: int, num_rows: int) -> None:
    """Check that there is a row for each embedding of a pretrained model.

    Raises:
        ValueError: there are fewer.
    """
    if num_pretrained > num_rows:
        raise ValueError(
            f"lm.pretrained={source!r} has {num_pretrained} embeddings, lm.vocab_size={num_rows}; "
            f"set lm.vocab_size={num_pretrained}, or more if the tokenizer needs more"
        )


def grown(matrix: Tensor, num_rows: int) -> Tensor:
    """Append rows to a pretrained matrix of embeddings, for tokens that it has none for.

    A new row is the mean of the others, by which its token is as likely as an average one, and
    noise of the size of our initial embeddings, which makes the new rows differ.

    Args:
        matrix: (V, D).
        num_rows: V or more.

    Returns:
        (num_rows, D)
    """
    num_new = num_rows - matrix.shape[0]
    if not num_new:
        return matrix
    noise = INITIAL_STD * torch.randn(num_new, matrix.shape[1]).to(matrix)
    return torch.cat([matrix, matrix.mean(0) + noise])
