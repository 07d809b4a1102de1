"""How files and `key=value` become one `Config`, whose fields are in `schema`.

`configs/base.yaml` holds every value; the files named on the command line hold differences; `key=value` comes last:

    python train.py configs/preset/tiny.yaml configs/stage/asr.yaml optim.lr=1e-3

A file may carry a map `stages: {asr: {...}, ...}` of differences that hold for one stage alone; so may the command
line (`stages.lm.optim.lr=1e-3`), to reach a stage that the asked one stands on. A map `kinds: {mamba2: {...}, ...}`
holds differences for one `lm.kind` alone, so that a single word gives the same model with another language model.
"""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from configs.checks import ON_DIALOGUES, STAGES, check, check_names
from configs.schema import Config

CONFIGS = Path(__file__).resolve().parent
KINDS = ("mamba", "mamba2", "transformer")
"""Of language models."""
OF_TRANSFORMERS = ("family", "num_heads", "num_kv_heads", "d_ffn", "rope_theta", "tied")
"""Fields of the section `lm` that no other kind reads."""
STAGE_SECTIONS = ("stage", "lora", "lora_drop", "optim", "trainer", "run", "wandb")
"""Sections that `key=value` sets for the asked stage only; every other section holds for the stages upstream it too."""
EXECUTION_ONLY = (
    "run", "wandb", "lora_drop", "data.num_workers", "data.worker_timeout_s", "trainer.checkpoint_every_s",
    "trainer.threads", "trainer.cpu_processes", "trainer.keep_freed_memory", "trainer.activation_checkpointing",
    "trainer.strategy",
)  # fmt: skip
"""What may differ between two runs that are the same experiment."""


def load_config(args: list[str], stage: str | None = None) -> Config:
    """YAML paths and `key=value` words -> Config.

    Args:
        args: paths (merged in order) and dot-list words (merged last).
        stage: build the configuration of this stage instead of the one named in `args`: its stage file replaces
            theirs, and of the dot-list only what holds for every stage, or `stages.<stage>.` for it, is kept.

    Raises:
        ValueError: a file, key or value that does not fit, with what would.
    """
    files, words = [a for a in args if "=" not in a], [a for a in args if "=" in a]
    if stage is not None:
        files = [f for f in files if Path(f).parent.name != "stage"] + [str(stage_file(stage))]
        words = [
            w for w in words if w.split(".")[0] not in STAGE_SECTIONS or w.startswith("run.dir=")
        ]
    layers = [_load_file(f) for f in [str(CONFIGS / "base.yaml"), *files]]
    overrides = OmegaConf.from_dotlist(words)
    per_stage = OmegaConf.merge(
        *[layer.pop("stages", {}) for layer in layers], overrides.pop("stages", {})
    )
    per_kind = OmegaConf.merge(
        *[layer.pop("kinds", {}) for layer in layers], overrides.pop("kinds", {})
    )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), *layers)
        check_names(per_kind, KINDS, "lm.kind", "kinds")
        merged = OmegaConf.merge(
            merged, per_kind.get(OmegaConf.merge(merged, overrides).lm.kind, {})
        )
        check_names(per_stage, STAGES, "stage", "stages")
        merged = OmegaConf.merge(merged, per_stage.get(merged.stage.name, {}), overrides)
        config = _typed(merged)
    except OmegaConfBaseException as error:
        raise ValueError(_explain(error)) from None
    check(config)
    return config


def stage_file(stage: str) -> Path:
    """The file of a stage. Raises ValueError naming the nearest stage."""
    check_names([stage], STAGES, "stage", "STAGE")
    return CONFIGS / "stage" / f"{stage}.yaml"


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dict, safe in a weights-only checkpoint."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`; what an earlier version did not know has the value of base.yaml."""
    known = _load_file(str(CONFIGS / "base.yaml"))
    known.pop("kinds")
    return _typed(OmegaConf.merge(OmegaConf.structured(Config), known, values))


def override(config: Config, words: list[str]) -> Config:
    """The configuration with `key=value` words applied. Raises ValueError as `load_config` does."""
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(Config), to_dict(config), OmegaConf.from_dotlist(words)
        )
        changed = _typed(merged)
    except OmegaConfBaseException as error:
        raise ValueError(_explain(error)) from None
    check(changed)
    return changed


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration as YAML."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(to_dict(config))))


def fingerprint(config: Config, upstream: Sequence[str] = ()) -> str:
    """Eight hex digits that are equal for the same experiment, wherever and however fast it runs.

    Args:
        upstream: names of the runs it starts from: trained otherwise, they make it another experiment.
    """
    values = to_dict(config)
    for name in EXECUTION_ONLY:
        section, _, key = name.rpartition(".")
        (values[section] if section else values).pop(key)
    if config.stage.name not in ON_DIALOGUES:
        del values["duplex"], values["dialogue"]
    if not config.lora.enabled:
        del values["lora"]
    if config.lm.kind != "transformer":
        values["lm"] = {
            name: value for name, value in values["lm"].items() if name not in OF_TRANSFORMERS
        }
    return hashlib.sha256(json.dumps([values, *upstream], sort_keys=True).encode()).hexdigest()[:8]


def _typed(merged: Any) -> Config:
    """The configuration, each source's line upon what holds for all sources."""
    lines = {
        name: OmegaConf.merge(merged.data.source, line)
        for name, line in merged.data.sources.items()
    }
    config = OmegaConf.to_object(OmegaConf.merge(merged, {"data": {"sources": lines}}))
    assert isinstance(config, Config)
    return config


def _load_file(path: str) -> DictConfig:
    if not Path(path).is_file():
        near = difflib.get_close_matches(path, map(str, Path(path).parent.glob("*.yaml")), n=1)
        raise ValueError(
            f"no configuration file {path!r}." + (f" Did you mean {near[0]!r}?" if near else "")
        )
    try:
        loaded = OmegaConf.load(path)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, DictConfig):
        raise ValueError(
            f"{path}: a configuration file holds `key: value` pairs, this one holds a list"
        )
    return loaded


def _explain(error: OmegaConfBaseException) -> str:
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: no value given; set it with {error.full_key}=VALUE or in a YAML file"
    if (
        isinstance(error, ConfigKeyError)
        and error.object_type is not None
        and dataclasses.is_dataclass(error.object_type)
    ):
        known = [f.name for f in dataclasses.fields(error.object_type)]
        near = difflib.get_close_matches(str(error.key), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"unknown key {error.full_key!r}.{hint} Known here: {', '.join(known)}."
    return f"{error.full_key}: {str(error).splitlines()[0]}"
