"""Lists of token ids as padded tensors."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from duplexmamba.streaming.padded import Padded


def pad_ids(rows: Sequence[Sequence[int]], device: torch.device, value: int = 0) -> Padded:
    """Make one tensor (B, L) int64 of B lists of ids, with `value` after the end of each."""
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    values = pad_sequence(tensors, batch_first=True, padding_value=value)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return Padded(values.to(device), lengths)
