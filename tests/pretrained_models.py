"""Tiny language models of transformers with random weights, in their format on disk."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB_SIZE = 61
D_MODEL = 32
COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": D_MODEL,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
ATTENTION = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
MAMBA = {"state_size": 8, "num_hidden_layers": 2, "time_step_rank": 4}
SSD = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 2,
    "mamba_expand": 2,
    "mamba_chunk_size": 4,
}
DELTA = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "llama": ATTENTION,
    "qwen3": ATTENTION,
    "smollm3": {**ATTENTION, "num_hidden_layers": 4},
    "gpt_neox": ATTENTION,
    "mamba": MAMBA,
    "mamba2": {
        "state_size": 8,
        "num_hidden_layers": 2,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 2,
        "chunk_size": 4,
    },
    "falcon_mamba": MAMBA,
    "jamba": {
        **ATTENTION,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 4,
    },
    "granitemoehybrid": {
        **ATTENTION,
        **SSD,
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 16,
        "embedding_multiplier": 3.0,
        "logits_scaling": 2.0,
        "position_embedding_type": "rope",
    },
    "nemotron_h": {
        **ATTENTION,
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "attention", "mlp", "moe"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 2,
        "chunk_size": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "moe_shared_expert_intermediate_size": 16,
        "time_step_min": 1.0,
    },
    "falcon_h1": {**ATTENTION, **SSD, "mamba_d_ssm": 64, "lm_head_multiplier": 0.5},
    "bamba": {**ATTENTION, **SSD, "attn_layer_indices": [1]},
    "zamba2": {
        **ATTENTION,
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "attention_head_dim": 16,
        "layers_block_type": ["mamba", "hybrid", "mamba"],
        "mamba_d_state": 8,
        "mamba_expand": 2,
        "mamba_ngroups": 2,
        "n_mamba_heads": 8,
        "mamba_headdim": 8,
        "chunk_size": 4,
        "num_mem_blocks": 1,
        "use_mem_rope": True,
        "time_step_min": 1.0,
    },
    "lfm2": {**ATTENTION, "layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "olmo_hybrid": {**ATTENTION, **DELTA},
    "qwen3_next": {
        **ATTENTION,
        **DELTA,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
}
"""Settings of config.json that make a tiny model, by model_type."""


def build_tiny(model_type: str, **settings: Any) -> PreTrainedModel:
    """Build a model whose weights, norms and biases included, differ in every channel."""
    torch.manual_seed(0)
    values = {**COMMON, **SETTINGS[model_type], **settings}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **values))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save_tiny(folder: Path, model_type: str, **settings: Any) -> PreTrainedModel:
    """Save a tiny model as a folder of transformers, and return it."""
    model = build_tiny(model_type, **settings)
    model.save_pretrained(folder)
    return model
