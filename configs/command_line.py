"""`key=value` of a command line -> values; a text field gets its value as it was typed.

Parsed as YAML, `run.id=2024_11_30` would be a number, `run.id=on` a truth value, and a path with
`: ` or ` #` a map or half of a path.
"""

import dataclasses
import re
import types
import typing
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from configs.schema import Config

NULLS = ("null", "Null", "NULL", "~", "")
"""YAML's words for no value, which a field that may have none understands."""
MAP_SECTIONS = ("stages", "kinds")
"""Sections of which each entry holds differences to the whole configuration."""


def parse(overrides: list[str]) -> DictConfig:
    """Values of `key=value` overrides, the last of a key first in effect.

    Raises:
        ValueError: a value is not YAML.
    """
    values = OmegaConf.create({})
    for override in overrides:
        key, _, text = override.partition("=")
        if _is_typed_text(key, text):
            OmegaConf.update(values, key, literal(text), force_add=True)
        else:
            try:
                values.merge_with_dotlist([override])
            except yaml.YAMLError as error:
                problem = " ".join(str(getattr(error, "problem", error)).split())
                raise ValueError(
                    f"{override}: the value is not YAML ({problem}); in a map or list a space "
                    "follows each colon and comma, and in a shell the whole is quoted: "
                    f"'{key}={{name: value}}'"
                ) from None
    return values


def literal(value: Any) -> Any:
    """A value that OmegaConf takes as it stands: without interpolation of ${...} in texts.

    Args:
        value: a text, or nested dicts and lists of texts and other values.
    """
    if isinstance(value, str):
        # OmegaConf halves the backslashes before ${ where an odd number of them escapes it.
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [literal(item) for item in value]
    return value


def _is_typed_text(key: str, text: str) -> bool:
    """Whether a value belongs to a text field and is neither null nor in quotation marks."""
    field_type = _type_of(key)
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if is_quoted:
        return False
    if field_type is str:
        return text != ""
    is_optional = field_type == (str | None)
    return is_optional and text not in NULLS


def _type_of(key: str) -> Any:
    """Type of a setting; None for one that does not exist."""
    parts = key.split(".")
    if parts[0] in MAP_SECTIONS:
        parts = parts[2:]
    current: Any = Config
    for part in parts:
        if dataclasses.is_dataclass(current):
            current = typing.get_type_hints(current).get(part)
        elif typing.get_origin(current) is dict:
            current = typing.get_args(current)[1]
        else:
            return None
        current = _without_none_of_dataclass(current)
    return current


def _without_none_of_dataclass(field_type: Any) -> Any:
    """The dataclass of an optional section; any other type as it is."""
    if isinstance(field_type, types.UnionType):
        for option in typing.get_args(field_type):
            if dataclasses.is_dataclass(option):
                return option
    return field_type
