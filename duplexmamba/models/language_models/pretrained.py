"""Loading the weights of language models of transformers."""

from pathlib import Path

from duplexmamba.models.language_models.base import LM


def load_pretrained(lm: LM, source: str) -> None:
    """Copy the weights of a model in the layout of transformers into `lm`.

    Args:
        lm: language model whose sizes fit.
        source: folder, or name of a model on the hub.

    Raises:
        ValueError: there is no such model, or it differs from the section `lm` of the
            configuration.
    """
    # imported here, because it takes seconds and most models start without it
    from transformers import AutoModelForCausalLM

    from duplexmamba.models.language_models.pretrained_lm import PretrainedLM

    if isinstance(lm, PretrainedLM):
        lm.load_weights(source)
        return
    try:
        pretrained = AutoModelForCausalLM.from_pretrained(source, dtype=lm.embeddings.weight.dtype)
    except (OSError, ValueError) as error:
        place = "folder" if Path(source).exists() else "folder or hub model"
        raise ValueError(
            f"lm.pretrained={source!r}: no readable {place} of that name ({str(error)[:200]})"
        ) from None

    model_type = pretrained.config.model_type
    field = lm.model_type_field
    expected = getattr(lm.config, field)
    if model_type != expected:
        raise ValueError(
            f"lm.pretrained={source!r} is a {model_type} model; "
            f"lm.{field}={expected} needs a {expected} model"
        )
    lm.copy_weights(pretrained, source)
