"""Loading the weights of language models of transformers."""

from pathlib import Path

from duplexmamba.models.language_models.base import LM


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

    if isinstance(lm, PretrainedLM):
        lm.load_weights(source)
        return
    mamba_ssm_config = read_mamba_ssm_config(source)
    if mamba_ssm_config is not None:
        pretrained = open_mamba_ssm(mamba_ssm_config, source)
        _check_model_type(lm, pretrained.config.model_type, source)
        lm.copy_weights(pretrained, source)
        return
    try:
        pretrained = AutoModelForCausalLM.from_pretrained(source, dtype=lm.embeddings.weight.dtype)
    except (OSError, ValueError) as error:
        place = "folder" if Path(source).exists() else "folder or hub model"
        raise ValueError(
            f"lm.pretrained={source!r}: no readable {place} of that name ({str(error)[:200]})"
        ) from None

    _check_model_type(lm, pretrained.config.model_type, source)
    lm.copy_weights(pretrained, source)


def _check_model_type(lm: LM, model_type: str, source: str) -> None:
    field = lm.model_type_field
    expected = lm.expected_model_type
    if model_type != expected:
        raise ValueError(
            f"lm.pretrained={source!r} is a {model_type} model; "
            f"lm.{field}={expected} needs a {expected} model"
        )
