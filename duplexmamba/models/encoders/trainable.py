"""A pretrained speech encoder whose weights are part of the model, so that stages can train them.

It hears as the frozen one does, in whole utterances or in windows, and gives the same frames until it
is trained. Source of the weights: transformers.
"""

import numpy as np
from torch import Tensor

from duplexmamba.config import ModelConfig
from duplexmamba.models.encoders.library import build_library_encoder, open_library_encoder
from duplexmamba.models.encoders.pretrained import PretrainedEncoder

ADAPTER_DROPOUT = "lora_dropout"
"""Name of the modules of adapters that differ between training and use."""


class TrainableEncoder(PretrainedEncoder):
    """Samples (B, n) -> frames (B, T, D) with gradients for the weights of the encoder.

    The weights are random until `load_pretrained` or a checkpoint replaces them. The encoder's own
    dropout and masks stay off in training, and statistics of batches as they are: rows run one by
    one, and `frontend.noise_std` and `frontend.masked_share` disturb its frames. The normalisation
    is that of the pretrained weights, whatever they become.

    Args:
        config: `encoder.pretrained` names a folder or a model of the hub.

    Raises:
        ValueError: as `PretrainedEncoder`, or there is no such encoder.
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.library = build_library_encoder(self.info.name)
        # a submodule, by which its weights are found
        self.model = self.library.model

    def load_pretrained(self) -> None:
        """Load the weights that `encoder.pretrained` names.

        Raises:
            ValueError: they are missing, or do not fit config.json.
        """
        opened = open_library_encoder(self.info.name, "cpu")
        self.model.load_state_dict(opened.model.state_dict())

    def train(self, mode: bool = True) -> "TrainableEncoder":
        """Set the mode of adapters; the encoder itself stays in that for use."""
        super().train(mode)
        self.model.eval()
        for name, module in self.model.named_modules():
            if ADAPTER_DROPOUT in name:
                module.train(mode)
        return self

    def encode_window(self, samples: np.ndarray) -> Tensor:
        """Run the encoder itself over (n,) float32 samples: (T, width of the encoder) float32."""
        return self.library.frames(samples)
