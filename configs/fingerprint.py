"""Identity of an experiment: equal for the same result, wherever and however fast it runs."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from configs.aliases import to_earlier_names
from configs.loading import base_values, to_dict
from configs.schema import Config
from duplexmamba.models.language_models import LANGUAGE_MODELS

EXECUTION_ONLY = (
    "run",
    "wandb",
    "lora_drop",
    "data.num_workers",
    "data.worker_timeout_s",
    "data.cache",
    "data.test_voices",
    "data.test_people",
    "data.test_unaddressed",
    "data.test_effects",
    "trainer.checkpoint_every_s",
    "trainer.threads",
    "trainer.cpu_processes",
    "trainer.keep_freed_memory",
    "trainer.activation_checkpointing",
    "trainer.strategy",
)
"""Sections and fields that may differ between two runs of the same experiment."""

FIELDS_OF_CONVERSATIONS = ("conversations", "composed_share", "excerpt_s")
"""Fields of the section `data` that only stages on dialogues of recorded conversations read."""
FIELDS_OF_TRANSFORMERS = ("family", "num_heads", "num_kv_heads", "d_ffn", "rope_theta", "tied")
"""Fields of the section `lm` that the first version left out for other kinds."""


def fingerprint(config: Config, upstream: Sequence[str] = ()) -> str:
    """Eight hex digits that identify the result of a run.

    A field with the value of base.yaml does not count, so that a new field of a later version
    leaves the identity of earlier runs as it is.

    Args:
        config: complete configuration.
        upstream: names of the runs that it starts from; other weights make another experiment.
    """
    differences = _differences(_relevant(config), base_values())
    return _digest(differences, upstream)


def earlier_fingerprint(config: Config, upstream: Sequence[str] = ()) -> str:
    """The fingerprint that the first version gave to the same experiment.

    It hashed every value under its name at that time.
    """
    # Not `_relevant`: its rules may change with new fields, those of the first version never do.
    values = to_dict(config)
    for name in EXECUTION_ONLY:
        _remove(values, name)
    if config.stage.data != "dialogues":
        del values["duplex"], values["dialogue"]
    if not config.lora.enabled:
        del values["lora"]
    if config.lm.kind != "transformer":
        for field in FIELDS_OF_TRANSFORMERS:
            del values["lm"][field]
    return _digest(to_earlier_names(values), upstream)


@dataclasses.dataclass(frozen=True)
class Difference:
    """A setting that differs between two configurations."""

    setting: str
    """Dotted name."""
    earlier: Any
    present: Any


def differences(earlier: Config, present: Config) -> tuple[list[Difference], list[Difference]]:
    """Settings that differ between the configurations of two runs, the stage's name first.

    Returns:
        Those that change the result, and those that only change how it is computed or scored.
        Where runs are stored and logged belongs to neither.
    """
    values = flat(to_dict(earlier))
    present_values = flat(to_dict(present))
    relevant = flat(_relevant(earlier)) | flat(_relevant(present))
    result = []
    execution = []
    for name in sorted(values | present_values, key=lambda name: (name != "stage.name", name)):
        difference = Difference(name, values.get(name), present_values.get(name))
        if difference.earlier == difference.present:
            continue
        if name in relevant:
            result.append(difference)
        elif name.startswith(EXECUTION_ONLY) and not name.startswith(("run.", "wandb.")):
            execution.append(difference)
    return result, execution


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as one map of dotted names."""
    flattened: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flattened |= flat(value, f"{prefix}{name}.")
        else:
            flattened[f"{prefix}{name}"] = value
    return flattened


def _relevant(config: Config) -> dict[str, Any]:
    """All values that the result depends on."""
    values = to_dict(config)
    for name in EXECUTION_ONLY:
        _remove(values, name)
    _remove_unused(config, values)
    return values


def _remove_unused(config: Config, values: dict[str, Any]) -> None:
    """Remove what this stage and this language model do not read."""

    if config.stage.data != "dialogues":
        del values["duplex"], values["dialogue"], values["stage"]["response_weight"]
    if config.stage.data != "dialogues" or not config.data.conversations:
        for field in FIELDS_OF_CONVERSATIONS:
            del values["data"][field]
    if not config.lora.enabled:
        del values["lora"]
    # The number of heads of a transformer does not change a run of a Mamba.
    read = LANGUAGE_MODELS[config.lm.kind].own_fields
    for record in LANGUAGE_MODELS.values():
        for field in record.own_fields:
            if field not in read:
                values["lm"].pop(field, None)


def _remove(values: dict[str, Any], name: str) -> None:
    """Remove the section or field of a dotted name."""
    *sections, key = name.split(".")
    for section in sections:
        values = values[section]
    values.pop(key)


def _differences(values: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values that differ from those of base.yaml."""
    differences: dict[str, Any] = {}
    for name, value in values.items():
        default = base.get(name)
        if name == "sources":
            sources = {}
            # Each corpus is compared with the defaults for all of them. One without differences
            # counts too: it is another corpus.
            for key, entry in value.items():
                sources[key] = _differences(entry, base["source"])
            if sources:
                differences[name] = sources
        elif isinstance(value, Mapping) and isinstance(default, Mapping):
            # A section without differences is left out, so that a new section changes nothing.
            inner = _differences(value, default)
            if inner:
                differences[name] = inner
        elif value != default:
            differences[name] = value
    return differences


def _digest(values: Mapping[str, Any], upstream: Sequence[str]) -> str:
    """Eight hex digits of a hash of values and names."""
    # Sorted, so that the order of fields in the schema can change.
    text = json.dumps([values, *upstream], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
