"""CTC connector: one embedding for each label that the encoder's CTC emits.

It applies the idea of AlignFormer (arXiv 2412.01145). Letters as in `base`.
"""

from torch import Tensor, nn

from duplexmamba.config import ConnectorConfig
from duplexmamba.models.connectors.merge import MergeConnector

BYTE_LABELS = 257
"""Labels of the encoder's CTC: the blank, 0, and byte b as label b + 1."""
BLANK_SHARE = 0.01
"""Weight of a frame that is certainly blank, relative to one that certainly is not."""


class CTCConnector(MergeConnector):
    """(B, T, D) -> (B, S, E): 1 to k embeddings per window, one per CTC label.

    A new label begins a new embedding, the mean of the frames up to the next label, weighted by
    their probability of not being blank. `head` starts from the CTC head of stage encoder and is
    trained with the connector.
    """

    def __init__(self, config: ConnectorConfig, d_encoder: int, d_lm: int):
        num_head_parameters = BYTE_LABELS * (d_encoder + 1)
        super().__init__(config, d_encoder, d_lm, num_extra=num_head_parameters)
        self.head = nn.Linear(d_encoder, BYTE_LABELS)

    def groups(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Begin a group at every new label other than the blank.

        Args:
            windows: (B, U, k, D).

        Returns:
            (B, U, k - 1) bool, whether the second frame and those after it begin a group; and the
            weight of each frame in the mean of its group, (B, U, k).
        """
        logits = self.head(windows)  # (B, U, k, 257)
        labels = logits.argmax(-1)
        is_new = labels[:, :, 1:] != labels[:, :, :-1]
        is_label = labels[:, :, 1:] != 0
        blank = logits.softmax(-1)[..., 0]
        # a little weight for blanks: a window of blanks alone has a mean, and the head a gradient
        weights = 1 - (1 - BLANK_SHARE) * blank
        return is_new & is_label, weights
