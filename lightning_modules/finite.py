"""Losses, gradients and weights that are NaN or infinite: updates are skipped, trainings stop."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

MAX_SKIPPED_UPDATES = 10
"""Number of skipped updates in a row at which a training stops."""
NUM_NAMED_UTTERANCES = 8
"""Utterances of a batch that a message names."""
REMEDY = (
    "lower optim.lr, raise optim.warmup_steps, set optim.clip=1, or look for what is wrong with "
    "these utterances"
)


class UpdateRecord:
    """Losses and batches of the update in progress, and the number of updates that were skipped."""

    def __init__(self) -> None:
        self.num_skipped = 0
        """All skipped updates of this process."""
        self.num_in_a_row = 0
        """Skipped updates since the last one that was made."""
        self._losses: list[Tensor] = []
        self._names: list[str] = []

    def add(self, batch: Any, loss: Tensor) -> None:
        """Add a batch of the update in progress, and its loss, a scalar."""
        self._losses.append(loss.detach())
        self._names += utterance_names(batch)

    def end(self, norm: Tensor) -> bool:
        """End the update; returns whether loss and gradient are finite on this rank.

        Args:
            norm: norm of the gradient, a scalar.
        """
        values = torch.stack([norm, *[loss.to(norm) for loss in self._losses]])
        self._losses = []
        return bool(values.isfinite().all())

    def count(self, is_made: bool) -> None:
        """Count the update that has ended as made or as skipped."""
        if is_made:
            self.num_in_a_row = 0
        else:
            self.num_in_a_row += 1
            self.num_skipped += 1

    def take_names(self) -> str:
        """Return the utterances of the update that has ended, and forget them."""
        names = shortened(self._names)
        self._names = []
        return names


def utterance_names(batch: Any) -> list[str]:
    """Ids of the utterances or dialogues of a batch; of a batch of texts, the texts."""
    dialogues = getattr(batch, "dialogues", None)
    if dialogues is not None:
        return [dialogue.id for dialogue in dialogues] + list(batch.utterances.ids)
    ids = getattr(batch, "ids", None)
    if ids is not None:
        return list(ids)
    return [str(item) for item in batch]


def shortened(names: list[str]) -> str:
    """Join the first names, and say how many more there are."""
    shown = ", ".join(names[:NUM_NAMED_UTTERANCES])
    num_more = len(names) - NUM_NAMED_UTTERANCES
    return f"{shown} and {num_more} more" if num_more > 0 else shown


def not_finite(weights: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first weight that holds NaN or infinity; None if there is none."""
    for name, weight in dict(weights).items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            return name
    return None
