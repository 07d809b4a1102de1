"""Folders of pretrained models with random weights, to try presets without a download.

    python -m duplexmamba.models.pretrained_folders --random-weights whisper FOLDER
    python -m duplexmamba.models.pretrained_folders --random-weights microsoft/wavlm-large FOLDER

The folder has the layout of a true checkpoint: config.json, safetensors, and the feature extractor of
a speech encoder or the tokenizer of a language model. An architecture by its name is made tiny, a
model of the hub that a preset names in its true size. `encoder.pretrained` or `lm.pretrained` and
`tokenizer.source` take the folder.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from duplexmamba.models.encoders.library import quiet

END_OF_TEXT = "<|endoftext|>"
TINY_NOISE = 0.05
"""Standard deviation of noise on all weights of a tiny model, so that no norm or bias is neutral."""

Settings = dict[str, Any]

# sizes that several tiny models share
TRANSFORMER: Settings = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
WAV2VEC2: Settings = {
    **TRANSFORMER,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
}
FASTCONFORMER: Settings = {
    **TRANSFORMER,
    "subsampling_conv_channels": 4,
    "num_mel_bins": 80,
}
TRANSFORMER_LM: Settings = {
    **TRANSFORMER,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


@dataclasses.dataclass(frozen=True)
class Family:
    """How a folder of one architecture is made."""

    model_type: str
    """`model_type` in config.json."""
    model_class: str
    """Class of transformers whose weights are on disk."""
    tiny: Settings
    """Settings of config.json that make a tiny model."""
    extractor: str | None = None
    """Class of the feature extractor; None: a language model, which has a tokenizer."""
    tiny_extractor: Settings = dataclasses.field(default_factory=dict)
    """Settings of the feature extractor of a tiny model that differ from the library's defaults."""


FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            "whisper",
            "WhisperForConditionalGeneration",
            {
                "d_model": 32,
                "encoder_layers": 2,
                "decoder_layers": 1,
                "encoder_attention_heads": 4,
                "decoder_attention_heads": 4,
                "encoder_ffn_dim": 48,
                "decoder_ffn_dim": 48,
                "vocab_size": 64,
                "max_source_positions": 200,
                "pad_token_id": 0,
                "bos_token_id": 0,
                "eos_token_id": 0,
                "decoder_start_token_id": 0,
            },
            "WhisperFeatureExtractor",
            {"chunk_length": 4},
        ),
        Family("wav2vec2", "Wav2Vec2ForCTC", WAV2VEC2, "Wav2Vec2FeatureExtractor"),
        Family("hubert", "HubertModel", WAV2VEC2, "Wav2Vec2FeatureExtractor"),
        Family(
            "wavlm",
            "WavLMModel",
            {**WAV2VEC2, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
            "Wav2Vec2FeatureExtractor",
        ),
        Family(
            "wav2vec2-bert",
            "Wav2Vec2BertModel",
            {**TRANSFORMER, "vocab_size": 32},
            "SeamlessM4TFeatureExtractor",
        ),
        Family(
            "parakeet_ctc",
            "ParakeetForCTC",
            {"encoder_config": FASTCONFORMER, "vocab_size": 32, "pad_token_id": 31},
            "ParakeetFeatureExtractor",
        ),
        Family(
            "moonshine",
            "MoonshineForConditionalGeneration",
            {
                "hidden_size": 32,
                "intermediate_size": 48,
                "encoder_num_hidden_layers": 2,
                "decoder_num_hidden_layers": 1,
                "encoder_num_attention_heads": 4,
                "encoder_num_key_value_heads": 4,
                "decoder_num_attention_heads": 4,
                "decoder_num_key_value_heads": 4,
                "vocab_size": 64,
            },
            "Wav2Vec2FeatureExtractor",
            {"do_normalize": False},
        ),
        Family(
            "moonshine_streaming",
            "MoonshineStreamingForConditionalGeneration",
            {
                **TRANSFORMER,
                "num_hidden_layers": 1,
                "num_key_value_heads": 4,
                "vocab_size": 64,
                "encoder_config": {
                    **TRANSFORMER,
                    "num_key_value_heads": 4,
                    "sliding_windows": [[4, 3], [4, 0]],
                },
            },
            "Wav2Vec2FeatureExtractor",
            {"do_normalize": False},
        ),
        Family(
            "nemotron_asr_streaming",
            "NemotronAsrStreamingForRNNT",
            {
                "encoder_config": {**FASTCONFORMER, "sliding_window": 9},
                "vocab_size": 33,
                "blank_token_id": 32,
                "decoder_hidden_size": 16,
                "num_decoder_layers": 1,
            },
            "NemotronAsrStreamingFeatureExtractor",
        ),
        Family(
            "voxtral_realtime",
            "VoxtralRealtimeForConditionalGeneration",
            {
                "audio_config": {
                    **TRANSFORMER,
                    "head_dim": 8,
                    "sliding_window": 20,
                    "vocab_size": 64,
                },
                "text_config": {
                    **TRANSFORMER,
                    "num_key_value_heads": 2,
                    "head_dim": 8,
                    "num_hidden_layers": 1,
                    "vocab_size": 64,
                    "pad_token_id": 0,
                },
            },
            "VoxtralRealtimeFeatureExtractor",
        ),
        Family(
            "mimi",
            "MimiModel",
            {
                **TRANSFORMER,
                "num_filters": 4,
                "num_key_value_heads": 4,
                "sliding_window": 7,
                "codebook_size": 16,
                "codebook_dim": 8,
                "vector_quantization_hidden_dimension": 8,
                "num_quantizers": 2,
                "upsample_groups": 32,
                "layer_scale_initial_scale": 0.5,
            },
            "EncodecFeatureExtractor",
            {"sampling_rate": 24_000},
        ),
        Family("llama", "LlamaForCausalLM", TRANSFORMER_LM),
        Family("qwen3", "Qwen3ForCausalLM", {**TRANSFORMER_LM, "head_dim": 8}),
        Family(
            "mamba",
            "MambaForCausalLM",
            {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 320},
        ),
        Family(
            "granitemoehybrid",
            "GraniteMoeHybridForCausalLM",
            {
                **TRANSFORMER_LM,
                "layer_types": ["mamba", "attention"],
                "num_local_experts": 0,
                "shared_intermediate_size": 48,
                "mamba_n_heads": 8,
                "mamba_d_head": 8,
                "mamba_d_state": 8,
                "mamba_n_groups": 1,
            },
        ),
    )
}
"""All architectures by model_type."""


@dataclasses.dataclass(frozen=True)
class HubModel:
    """A model of the hub that a preset names."""

    model_type: str
    """Key of `FAMILIES`."""
    settings: Settings
    """Settings of its config.json that differ from the library's defaults."""


GRANITE_ATTENTION = (10, 13, 17, 27)
"""Layers of granite-4.0-h-350m with attention."""

HUB_MODELS = {
    "microsoft/wavlm-large": HubModel(
        "wavlm",
        {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
        },
    ),
    "nvidia/nemotron-speech-streaming-en-0.6b": HubModel("nemotron_asr_streaming", {}),
    "TinyLlama/TinyLlama_v1.1": HubModel(
        "llama",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "intermediate_size": 5632,
            "vocab_size": 32_000,
        },
    ),
    "ibm-granite/granite-4.0-h-350m": HubModel(
        "granitemoehybrid",
        {
            "hidden_size": 768,
            "num_hidden_layers": 32,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "layer_types": [
                "attention" if layer in GRANITE_ATTENTION else "mamba" for layer in range(32)
            ],
            "num_local_experts": 0,
            "shared_intermediate_size": 2048,
            "mamba_n_heads": 48,
            "mamba_d_head": 32,
            "mamba_d_state": 128,
            "mamba_n_groups": 1,
            "vocab_size": 100_352,
            "tie_word_embeddings": True,
        },
    ),
    "state-spaces/mamba-130m-hf": HubModel(
        "mamba", {"hidden_size": 768, "num_hidden_layers": 24, "vocab_size": 50_280}
    ),
}
"""Models of the hub that can be made in their true size."""


def write_random_weights(
    name: str, folder: Path, seed: int = 0, changes: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """Write a folder with random weights.

    Args:
        name: key of `FAMILIES` for a tiny model, or of `HUB_MODELS` for one of true size.
        folder: is made if it does not exist.
        seed: of the weights.
        changes: settings of config.json that replace the others.

    Returns:
        The model whose weights were written.

    Raises:
        ValueError: the name is unknown; lists the known ones.
    """
    hub_model = HUB_MODELS.get(name)
    if hub_model is None and name not in FAMILIES:
        known = ", ".join([*FAMILIES, *HUB_MODELS])
        raise ValueError(f"no folder of random weights is known for {name}; choose one of: {known}")
    family = FAMILIES[hub_model.model_type if hub_model else name]
    settings = hub_model.settings if hub_model else family.tiny
    torch.manual_seed(seed)
    # settings that are not named have the library's defaults, which are of true size
    config = AutoConfig.for_model(family.model_type, **{**settings, **(changes or {})})
    model_class = getattr(transformers, family.model_class)
    if hub_model:
        # two bytes for each weight, as such models have on disk
        model = model_class._from_config(config, dtype=torch.bfloat16)
    else:
        model = model_class(config)
        _disturb(model)
    with quiet():
        model.save_pretrained(folder)
    if family.extractor is None:
        build_tokenizer().save_pretrained(folder)
    else:
        extractor_class = getattr(transformers, family.extractor)
        extractor_settings = {} if hub_model else family.tiny_extractor
        extractor_class(**extractor_settings).save_pretrained(folder)
    return model


@torch.no_grad()
def _disturb(model: PreTrainedModel) -> None:
    for parameter in model.parameters():
        parameter.add_(TINY_NOISE * torch.randn_like(parameter))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer of single bytes, in the form of those of language models."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # without merges, every byte is a token
    vocabulary = {END_OF_TEXT: 0}
    for character in alphabet:
        vocabulary[character] = len(vocabulary)
    backend = tokenizers.Tokenizer(tokenizer_models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--random-weights",
        nargs=2,
        required=True,
        metavar=("NAME", "FOLDER"),
        help=f"NAME is one of {', '.join([*FAMILIES, *HUB_MODELS])}",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights")
    args = parser.parse_args()
    name, folder = args.random_weights
    try:
        model = write_random_weights(name, Path(folder), args.seed)
    except ValueError as error:
        sys.exit(str(error))
    millions = model.num_parameters() / 1e6
    print(f"{folder}: {name} with {millions:.3g} million random weights")


if __name__ == "__main__":
    main()
