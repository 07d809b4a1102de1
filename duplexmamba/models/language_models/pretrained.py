"""Loading the weights of language models of transformers, and what can be said without weights."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError

from duplexmamba.models.language_models.base import LM

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Files of the weights in a folder of transformers; `<name>.index.json` names the parts of one."""
NUM_NAMED = 10
"""Weights of each sort that a message names."""


def load_pretrained(lm: LM, source: str) -> None:
    """Copy the weights of a model in the layout of transformers, or of mamba_ssm, into `lm`.

    Args:
        lm: language model whose sizes fit.
        source: folder, or name of a model on the hub.

    Raises:
        ValueError: there is no such model, or it differs from the section `lm` of the
            configuration.
    """
    # imported here, because it takes seconds and most models start without it
    from transformers import AutoModelForCausalLM

    from duplexmamba.models.language_models.mamba_ssm_format import (
        open_mamba_ssm,
        read_mamba_ssm_config,
    )
    from duplexmamba.models.language_models.pretrained_lm import PretrainedLM

    check_pretrained(lm, source)
    if isinstance(lm, PretrainedLM):
        lm.load_weights(source)
        return
    mamba_ssm_config = read_mamba_ssm_config(source)
    if mamba_ssm_config is not None:
        lm.copy_weights(open_mamba_ssm(mamba_ssm_config, source), source)
        return
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=lm.embeddings.weight.dtype, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise _unreadable(source, error) from None
    pretrained, info = loaded
    _check_all_are_loaded(info, source)
    lm.copy_weights(pretrained, source)


def _check_all_are_loaded(info: Mapping[str, Collection[str]], source: str) -> None:
    """Check that weights and config.json belong together.

    transformers gives weights that are missing random values, and leaves out unknown ones.

    Args:
        info: what `from_pretrained` says about loading.
        source: folder or hub name of the model.

    Raises:
        ValueError: weights are missing or unknown; names the first of them.
    """
    problems = []
    for kind in ("missing", "unexpected"):
        names = sorted(info[f"{kind}_keys"])
        if names:
            problems.append(f"{kind} {', '.join(names[:NUM_NAMED])}")
    if problems:
        raise ValueError(
            f"lm.pretrained={source!r}: its weights do not fit its config.json: "
            f"{'; '.join(problems)}; copy or download it anew, or choose another model"
        )


def check_pretrained(lm: LM, source: str) -> int:
    """Check by its configuration that a pretrained model fits `lm`, without reading weights.

    Args:
        lm: language model, on any device, the meta device included.
        source: folder, or name of a model on the hub, of which only config.json is read.

    Returns:
        Embeddings that `lm` has in addition to those of the model.

    Raises:
        ValueError: there is no such model, or it differs from the section `lm` of the
            configuration, or files of its weights are missing from the folder.
    """
    settings = _read_settings(source)
    field = lm.model_type_field
    expected = lm.expected_model_type
    if settings.model_type != expected:
        raise ValueError(
            f"lm.pretrained={source!r} is a {settings.model_type} model; "
            f"lm.{field}={expected} needs a {expected} model"
            f"{_carried_otherwise(settings.model_type)}"
        )
    _check_architecture(settings, source)
    lm.check_settings(settings, source)
    _check_weight_files(source)
    return lm.config.vocab_size - int(settings.vocab_size)


def _carried_otherwise(model_type: str) -> str:
    """The end of a message about an architecture that another kind of language model may run."""
    from duplexmamba.models.language_models.architectures import ARCHITECTURES

    if model_type not in ARCHITECTURES:
        return ""
    return "; lm.kind=pretrained runs it as it is"


def _read_settings(source: str) -> "PreTrainedConfig":
    """Read config.json, in the layout of transformers or of mamba_ssm.

    Raises:
        ValueError: there is none that can be read.
    """
    from transformers import AutoConfig

    from duplexmamba.models.language_models.mamba_ssm_format import (
        mamba_ssm_settings,
        read_mamba_ssm_config,
    )

    mamba_ssm_config = read_mamba_ssm_config(source)
    if mamba_ssm_config is not None:
        return mamba_ssm_settings(mamba_ssm_config, source)
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise _unreadable(source, error) from None


def _check_architecture(settings: "PreTrainedConfig", source: str) -> None:
    """Check that the weights were saved by a class of the model_type that config.json names.

    Raises:
        ValueError: they belong to another architecture.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(settings)]
    causal_lm = model_class.__name__
    known = {causal_lm, causal_lm.replace("ForCausalLM", "Model")}
    others = set(settings.architectures or []) - known
    if others:
        raise ValueError(
            f"lm.pretrained={source!r} has model_type={settings.model_type}, but its weights are of "
            f"{', '.join(sorted(others))}: it would compute something else; choose another model"
        )


def _check_weight_files(source: str) -> None:
    """Check that all parts of the weights are in a folder; those of the hub are downloaded later.

    Raises:
        ValueError: some are missing.
    """
    folder = Path(source)
    if not folder.is_dir():
        return
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return
        index = folder / f"{name}.index.json"
        if index.is_file():
            parts = set(json.loads(index.read_text())["weight_map"].values())
            missing = sorted(part for part in parts if not (folder / part).is_file())
            if missing:
                raise ValueError(
                    f"lm.pretrained={source!r} lacks {', '.join(missing[:NUM_NAMED])}, which "
                    f"{index.name} names; copy or download the whole model"
                )
            return
    raise ValueError(
        f"lm.pretrained={source!r} has no weights ({' or '.join(WEIGHT_FILES)}); copy or download "
        "the whole model"
    )


def _unreadable(source: str, error: Exception) -> ValueError:
    """The error of a model that transformers cannot open."""
    place = "folder" if Path(source).exists() else "folder or hub model"
    return ValueError(
        f"lm.pretrained={source!r}: no readable {place} of that name ({str(error)[:200]}); check "
        "the name, the network, and whether the model asks for a login (hf auth login)"
    )
