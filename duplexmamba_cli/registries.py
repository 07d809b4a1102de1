"""Settings whose values are the kinds of a registry, and the descriptions of those kinds."""

import importlib
from collections.abc import Mapping
from typing import Any

REGISTRIES = {
    "encoder.kind": "duplexmamba.models.encoders:ENCODERS:description",
    "encoder.mixer": "duplexmamba.models.mixers:MIXERS:description",
    "connector.kind": "duplexmamba.models.connectors:CONNECTORS:description",
    "lm.kind": "duplexmamba.models.language_models:LANGUAGE_MODELS:description",
    "duplex.kind": "duplexmamba.duplex:DUPLEX_KINDS:description",
    "stage.name": "lightning_modules.stages:STAGE_REGISTRY:description",
    "data.source.kind": "datamodules.sources:CORPUS_FORMATS:layout",
}
"""Setting -> `module:registry:field`, where the field of a record describes its kind.

A registry is only imported when its setting is asked about.
"""


def kinds_of(setting: str) -> Mapping[str, str]:
    """Registered kinds of a setting with their descriptions; empty if it has no registry."""
    if setting not in REGISTRIES:
        return {}
    module_name, name, field = REGISTRIES[setting].split(":")
    registry: Mapping[str, Any] = getattr(importlib.import_module(module_name), name)
    return {kind: getattr(record, field) for kind, record in registry.items()}
