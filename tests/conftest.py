"""What all tests share."""

import os

import pytest
import torch

from configs.loading import load_config
from configs.schema import Config
from duplexmamba.models.language_models import LANGUAGE_MODELS

LM_KINDS = [kind for kind, record in LANGUAGE_MODELS.items() if record.has_own_sizes]
"""Language models that need no folder."""
TINY = ["configs/preset/tiny.yaml", "configs/stage/asr.yaml"]
SMALL_SIZES = [
    "encoder.d_model=32",
    "encoder.num_layers=2",
    "encoder.d_ffn=48",
    "encoder.conv_kernel=7",
    "encoder.num_heads=2",
    "features.num_mels=20",
    "frontend.channels=[4,4]",
    "connector.d_hidden=24",
    "lm.d_model=32",
    "lm.num_layers=2",
    "lm.pattern='M*'",
]
ALL_TURNS = [
    "dialogue.shares.out_of_grammar=0.07",
    "dialogue.shares.small_talk=0.03",
    "dialogue.shares.stop=0.05",
    "dialogue.shares.correction=0.03",
]
"""Every kind of turn in dialogues, those included that base.yaml leaves out."""

# tests that run within a job of Slurm are no training that Slurm has started
for variable in [name for name in os.environ if name.startswith("SLURM_")]:
    del os.environ[variable]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def config() -> Config:
    """A model small enough for any test."""
    return load_config([*TINY, *SMALL_SIZES])
