"""Rows of new markers that learn while the rest of a language model is frozen.

A pretrained model has never seen the markers of turn states. Their rows of the embedding matrix,
and of the output matrix where that is another one, are parameters of their own until `merge` writes
them into the matrices: the gradient and the optimiser's state are those of a few rows, and all other
rows keep their bits.

Letters in shapes:
    B: rows of the batch
    L: steps
    D: model width
    V: size of the vocabulary
    R: marker rows
"""

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_STD = 0.02
"""Standard deviation of the noise by which new rows differ."""


class MarkerRows(nn.Module):
    """The rows of some ids, in place of those in the matrices of a language model."""

    ids: Tensor
    """(R,) int64"""

    def __init__(
        self, ids: Sequence[int], new_ids: Collection[int], embeddings: Tensor, outputs: Tensor
    ):
        """Copy rows out of the matrices.

        Args:
            ids: ids whose rows learn.
            new_ids: those among them whose rows mean nothing yet, such as rows that the model was
                padded with; they start as `grown` rows do.
            embeddings: (V, D).
            outputs: (V, D), the output matrix; the same tensor for a tied one.
        """
        super().__init__()
        self.register_buffer("ids", torch.tensor(ids, device=embeddings.device), persistent=False)
        is_new = torch.tensor([each in new_ids for each in ids], device=embeddings.device)
        self.embeddings = nn.Parameter(_initial_rows(embeddings, self.ids, is_new))
        self.outputs = self.embeddings
        if outputs is not embeddings:
            self.outputs = nn.Parameter(_initial_rows(outputs, self.ids, is_new))

    def embed(self, ids: Tensor, embedded: Tensor) -> Tensor:
        """Replace the embeddings (B, L, D) of marker ids among (B, L)."""
        is_marker = ids[..., None] == self.ids  # (B, L, R)
        index = is_marker.int().argmax(-1)
        rows = F.embedding(index, self.embeddings)
        return torch.where(is_marker.any(-1, keepdim=True), rows, embedded)

    def replace_logits(self, logits: Tensor, hidden: Tensor, factor: float) -> Tensor:
        """Replace the logits (..., V) of marker ids.

        Args:
            logits: of the frozen output matrix.
            hidden: (..., D).
            factor: what the model multiplies logits by.
        """
        of_markers = factor * (hidden @ self.outputs.T)  # (..., R)
        return logits.index_copy(-1, self.ids, of_markers.to(logits.dtype))

    @torch.no_grad()
    def write_into(self, embeddings: Tensor, outputs: Tensor) -> None:
        """Write the rows into the matrices (V, D), in place."""
        embeddings[self.ids] = self.embeddings.to(embeddings.dtype)
        outputs[self.ids] = self.outputs.to(outputs.dtype)


@torch.no_grad()
def _initial_rows(matrix: Tensor, ids: Tensor, is_new: Tensor) -> Tensor:
    """Return (R, D): the rows of a matrix, or their mean with noise for those that are new."""
    rows = matrix[ids].clone()
    noise = INITIAL_STD * torch.randn(rows.shape).to(rows)
    return torch.where(is_new[:, None], matrix.mean(0) + noise, rows)


def is_marker_row(name: str) -> bool:
    """Whether the parameter of this dotted name holds rows of new markers."""
    return ".marker_rows." in name
