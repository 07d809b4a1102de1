"""Merging of YAML files and `key=value` overrides into one `Config`.

`configs/base.yaml` holds every value; the files named on the command line hold differences;
`key=value` comes last:

    python train.py configs/preset/tiny.yaml configs/stage/asr.yaml optim.lr=1e-3

A file may carry a map `stages: {asr: {...}, ...}` of differences for single stages; so may the
command line (`stages.lm.optim.lr=1e-3`), to reach a stage that the requested one starts from. A map
`kinds: {mamba2: {...}, ...}` holds differences for one `lm.kind`, so that one setting gives an
equally large model with another language model. On the command line the last setting that holds for
a stage or kind wins, with and without such a prefix.
"""

import dataclasses
import difflib
import functools
import itertools
import os
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from configs.aliases import modern_override, modernise
from configs.checks import check
from configs.command_line import MAP_SECTIONS, literal
from configs.command_line import parse as command_line_values
from configs.recipes import CONFIGS, STAGES, check_names, stage_file
from configs.schema import Config
from duplexmamba.models.language_models import LANGUAGE_MODELS

STAGE_SECTIONS = ("stage", "lora", "lora_drop", "optim", "trainer", "run", "wandb")
"""Sections that `key=value` sets for the requested stage alone, except the fields below.

Every other section holds for the stages that it starts from too.
"""
SHARED_FIELDS = (
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.precision",
    "trainer.matmul_precision",
    "trainer.activation_checkpointing",
    "run.dir",
)
"""Fields of those sections that `key=value` sets for all stages of a command: the hardware that they
are trained on, and the folder of all runs.
"""


@dataclasses.dataclass(frozen=True)
class Layer:
    """One set of differences, in the order in which they are merged."""

    origin: str
    """Path of the file, or `command line`; for differences of a stage or kind also its name."""
    values: DictConfig


def load_config(args: list[str], stage: str | None = None) -> Config:
    """Merge YAML files and overrides.

    Args:
        args: paths of YAML files, merged in order, and `key=value` overrides, merged last.
        stage: build the configuration of this stage instead of the one in `args`: its stage file
            replaces theirs, and only overrides that hold for every stage, or start with
            `stages.<stage>.`, are kept.

    Raises:
        ValueError: a file, key or value that does not fit; the message says what would.
    """
    try:
        differences = [layer.values for layer in layers(args, stage)]
        # Merged onto the dataclasses, so that unknown keys and wrong types are errors.
        config = _typed(OmegaConf.merge(OmegaConf.structured(Config), *differences))
    except OmegaConfBaseException as error:
        raise ValueError(_explain(error)) from None
    # omegaconf's own, where a list stands in place of a map
    except TypeError as error:
        raise ValueError(f"{' '.join(args)}: {error}; a section is a map, {{key: value}}") from None
    check(config)
    return config


def layers(args: list[str], stage: str | None = None) -> list[Layer]:
    """The layers that `load_config` merges, lowest priority first; arguments as there."""
    paths = [arg for arg in args if "=" not in arg]
    overrides = [modern_override(arg) for arg in args if "=" in arg]
    if stage is not None:
        paths = [path for path in paths if Path(path).parent.name != "stage"]
        paths.append(str(stage_file(stage)))
        overrides = [override for override in overrides if _holds_for_all_stages(override)]

    files = []
    for path in [str(CONFIGS / "base.yaml"), *paths]:
        files.append(Layer(path, load_file(path)))
    command_line = _command_line_layers(overrides)
    plain_layers = [*files, *command_line]

    # Differences for single stages and language models are taken out of every layer ...
    per_stage = _take_out(plain_layers, "stages")
    per_kind = _take_out(plain_layers, "kinds")
    for differences in per_kind:
        check_names(differences.values, LANGUAGE_MODELS, "lm.kind", "kinds")
    for differences in per_stage:
        check_names(differences.values, STAGES, "stage", "stages")

    # ... and those for this stage and language model put after all files, or in their place on the
    # command line. The stage and language model are those of the layers without the differences.
    plain_values = [layer.values for layer in plain_layers]
    plain = OmegaConf.merge(OmegaConf.structured(Config), *plain_values)
    stage_name = OmegaConf.select(plain, "stage.name", throw_on_missing=True)
    kind_layers = [_selected(differences, plain.lm.kind) for differences in per_kind]
    stage_layers = [_selected(differences, stage_name) for differences in per_stage]
    ordered = [*files]
    for of_layers in (kind_layers, stage_layers):
        for selected in of_layers[: len(files)]:
            ordered += selected
    for number, layer in enumerate(command_line, start=len(files)):
        ordered += [layer, *kind_layers[number], *stage_layers[number]]
    return ordered


def _command_line_layers(overrides: list[str]) -> list[Layer]:
    """Overrides as layers, divided where those with and without a prefix `stages` or `kinds` meet.

    The order of the layers is then that of the overrides.
    """
    groups = itertools.groupby(overrides, _map_section)
    return [Layer("command line", command_line_values(list(group))) for _, group in groups]


def _map_section(override: str) -> str | None:
    """`stages` or `kinds` where an override is a difference for one of them."""
    section = override.partition("=")[0].partition(".")[0]
    return section if section in MAP_SECTIONS else None


def _take_out(layers_with_maps: list[Layer], section: str) -> list[Layer]:
    """Remove a map of differences from every layer that has one.

    Args:
        layers_with_maps: changed in place: they lose the section.
        section: `stages` or `kinds`.

    Returns:
        One map for each layer, empty if it has none; the origin names layer and section.
    """
    maps = []
    for layer in layers_with_maps:
        values = layer.values.pop(section, {})
        maps.append(Layer(f"{layer.origin}, {section}", values))
    return maps


def _selected(differences: Layer, name: str) -> list[Layer]:
    """The entry `name` of a map of differences as a layer of its own; none without an entry."""
    if name not in differences.values:
        return []
    values = OmegaConf.create(differences.values[name])
    return [Layer(f"{differences.origin}.{name}", values)]


def _holds_for_all_stages(override: str) -> bool:
    """Whether an override applies to the prerequisite stages of the requested one too."""
    field = override.partition("=")[0]
    section = field.partition(".")[0]
    return section not in STAGE_SECTIONS or field in SHARED_FIELDS


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dict, safe in a weights-only checkpoint."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`, for dicts of earlier versions too.

    Settings that they did not have get the value of base.yaml.
    """
    known = OmegaConf.create(base_values())
    # Silent: the user of an old checkpoint cannot change the names in it.
    present = literal(modernise(values, silent=True))
    return _typed(OmegaConf.merge(OmegaConf.structured(Config), known, present))


@functools.cache
def _base() -> DictConfig:
    """Values of base.yaml without the differences for single kinds of language model."""
    base = load_file(str(CONFIGS / "base.yaml"))
    base.pop("kinds")
    return base


def base_values() -> dict[str, Any]:
    """Nested values of base.yaml; those that every run must set are "???"."""
    # Merged onto the dataclasses, so that values have the types of the fields: 1 becomes 1.0.
    merged = OmegaConf.merge(OmegaConf.structured(Config), _base())
    values = OmegaConf.to_container(merged)
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}


def override(config: Config, overrides: list[str]) -> Config:
    """The configuration with `key=value` overrides applied.

    Raises:
        ValueError: an override does not fit; the message says what would.
    """
    try:
        differences = command_line_values([modern_override(each) for each in overrides])
        values = literal(to_dict(config))
        changed = _typed(OmegaConf.merge(OmegaConf.structured(Config), values, differences))
    except OmegaConfBaseException as error:
        raise ValueError(_explain(error)) from None
    except TypeError as error:
        message = f"{' '.join(overrides)}: {error}; a section is a map, {{key: value}}"
        raise ValueError(message) from None
    check(changed)
    return changed


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration as YAML; a reader sees the old or the new file whole."""
    text = OmegaConf.to_yaml(OmegaConf.create(literal(to_dict(config))))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def _typed(merged: Any) -> Config:
    """The configuration as dataclasses; each source is completed by the defaults for all."""
    # Only after merging: any layer may change the defaults, also for sources of earlier layers.
    sources = {}
    for name, source in merged.data.sources.items():
        sources[name] = OmegaConf.merge(merged.data.source, source)
    completed = OmegaConf.merge(merged, {"data": {"sources": sources}})
    config = OmegaConf.to_object(completed)
    assert isinstance(config, Config)
    return config


def load_file(path: str) -> DictConfig:
    """One YAML file with today's names.

    A relative path that does not exist is looked up in the installed configurations, so that
    `configs/preset/tiny.yaml` works in any folder.

    Raises:
        ValueError: there is no such file, or it is not a YAML map; names a similar file.
    """
    file = Path(path)
    if not file.is_file() and not file.is_absolute():
        file = CONFIGS.parent / path
    if not file.is_file():
        neighbours = [str(neighbour) for neighbour in Path(path).parent.glob("*.yaml")]
        raise ValueError(f"no configuration file {path!r}.{_suggestion(path, neighbours)}")
    try:
        loaded = OmegaConf.load(file)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, DictConfig):
        raise ValueError(
            f"{path}: a configuration file holds `key: value` pairs, this one holds a list"
        )
    values = OmegaConf.to_container(loaded)
    assert isinstance(values, dict)
    return OmegaConf.create(modernise({str(name): value for name, value in values.items()}))


def _explain(error: OmegaConfBaseException) -> str:
    """One sentence with the field, the value and the remedy."""
    if isinstance(error, MissingMandatoryValue):
        name = error.full_key
        return f"{name}: no value given; set it with {name}=VALUE or in a YAML file"
    section = error.object_type
    if isinstance(error, ConfigKeyError) and dataclasses.is_dataclass(section):
        known = [field.name for field in dataclasses.fields(section)]
        hint = _suggestion(str(error.key), known)
        return f"unknown key {error.full_key!r}.{hint} Known here: {', '.join(known)}."
    # The lines after the first repeat the key and name classes, which does not help a user.
    return f"{error.full_key}: {str(error).splitlines()[0]}"


def _suggestion(name: str, known: list[str]) -> str:
    """A question that names the most similar known name, after a space; empty if none is similar."""
    near = difflib.get_close_matches(name, known, n=1)
    if not near:
        return ""
    return f" Did you mean {near[0]!r}?"
