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
        if _is_typed_text(_type_of(key), text):
            OmegaConf.update(values, key, literal(text), force_add=True)
        else:
            try:
                values.merge_with_dotlist([override])
                if text.lstrip().startswith(("{", "[")):
                    as_typed = _with_typed_texts(key, text)
                    OmegaConf.update(values, key, as_typed, merge=True, force_add=True)
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


def _with_typed_texts(key: str, text: str) -> Any:
    """A map or list with the texts within it as they were typed: {ok: 1.10} as 1.10, not 1.1."""
    # The base loader leaves every scalar a text.
    return _typed(yaml.safe_load(text), yaml.load(text, yaml.BaseLoader), _type_of(key))


def _typed(value: Any, typed: Any, field_type: Any) -> Any:
    """A parsed value in which texts of text fields are those of `typed`, its unparsed twin."""
    if isinstance(value, dict):
        # In both, keys are in the order of the text.
        pairs = zip(value.values(), typed.items(), strict=True)
        return {
            name: _typed(inner, text, _inner_type(field_type, name))
            for inner, (name, text) in pairs
        }
    if isinstance(value, list):
        pairs = zip(value, typed, strict=True)
        return [_typed(inner, text, _inner_type(field_type, "")) for inner, text in pairs]
    # ${...} stays a reference to another setting, except in texts.
    return literal(typed) if _is_typed_text(field_type, str(typed)) else value


def _inner_type(field_type: Any, name: str) -> Any:
    """Type of the field `name` of a section, or of the values of a map or list; None if unknown."""
    inner = None
    if dataclasses.is_dataclass(field_type):
        inner = typing.get_type_hints(field_type).get(name)
    elif typing.get_origin(field_type) is dict:
        _, inner = typing.get_args(field_type)
    elif typing.get_origin(field_type) is list:
        [inner] = typing.get_args(field_type)
    return _without_none_of_dataclass(inner)


def _is_typed_text(field_type: Any, text: str) -> bool:
    """Whether a value belongs to a text field and is neither null nor in quotation marks."""
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
        if not dataclasses.is_dataclass(current) and typing.get_origin(current) is not dict:
            return None
        current = _inner_type(current, part)
    return current


def _without_none_of_dataclass(field_type: Any) -> Any:
    """The dataclass of an optional section; any other type as it is."""
    if isinstance(field_type, types.UnionType):
        for option in typing.get_args(field_type):
            if dataclasses.is_dataclass(option):
                return option
    return field_type
