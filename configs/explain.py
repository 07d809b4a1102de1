"""Meaning, unit, value and origin of every setting.

    duplexmamba config --explain optim.lr
    duplexmamba config --explain optim.lr configs/preset/tiny.yaml configs/stage/asr.yaml

`python -m configs.explain` writes the meanings beside the values of base.yaml, from the docstrings
of the schema.
"""

import argparse
import ast
import dataclasses
import functools
import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from configs.loading import layers, load_config, to_dict
from configs.recipes import CONFIGS, check_names
from configs.schema import Config

UNITS = {
    "_ms": "milliseconds",
    "_s": "seconds",
    "_hz": "hertz",
    "_db": "decibels",
    "_samples": "samples",
    "_share": "fraction, 0 to 1",
    "_steps": "optimiser updates",
    "_frames": "frames",
}
"""Ending of a field's name -> unit."""

KindsOf = Callable[[str], Mapping[str, str]]
"""Name of a setting -> its registered kinds with their descriptions; empty without a registry."""

COMMENT_COLUMN = 40
"""Column of base.yaml at which the meanings begin."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of the configuration."""

    name: str
    """Dotted name."""
    meaning: str
    """Docstring of the field."""
    type: str
    """Type as written in the schema, with the choices of a Literal."""

    @property
    def summary(self) -> str:
        """First sentence of the meaning."""
        text = _first_paragraph(self.meaning)
        # A full stop after a capital letter belongs to an abbreviation.
        sentences = re.split(r"(?<=[a-z0-9)`])\. ", text)
        return sentences[0].rstrip(".")

    @property
    def unit(self) -> str:
        """Unit that the name ends in, "" for a plain number or a word."""
        for ending, unit in UNITS.items():
            if self.name.endswith(ending):
                return unit
        return ""


def _first_paragraph(text: str) -> str:
    """The first paragraph of a docstring in one line."""
    paragraph = text.split("\n\n")[0]
    return " ".join(paragraph.split())


@functools.cache
def settings() -> dict[str, Setting]:
    """Every setting by its dotted name, in the order of the schema."""
    return {setting.name: setting for setting in _settings_of(Config, "")}


def _settings_of(section: type, prefix: str) -> list[Setting]:
    """The settings of a section and of the sections in it.

    Args:
        section: dataclass.
        prefix: dotted name of the section with a dot after it; empty for the whole.
    """
    meanings = _field_docstrings(section)
    # `field.type` may be a string; the hints are the types themselves.
    types = typing.get_type_hints(section)
    result = []
    for field in dataclasses.fields(section):
        name = f"{prefix}{field.name}"
        kind = types[field.name]
        if dataclasses.is_dataclass(kind):
            result += _settings_of(typing.cast(type, kind), f"{name}.")
        else:
            meaning = meanings.get(field.name, "")
            result.append(Setting(name, meaning, _type_name(kind)))
    return result


def _type_name(kind: Any) -> str:
    """A type as written in the schema."""
    # `list[float]` is an instance of `type` too, but its name is only `list`.
    is_plain = isinstance(kind, type) and not typing.get_args(kind)
    if is_plain:
        return kind.__name__
    return str(kind).replace("typing.", "")


@functools.cache
def _field_docstrings(section: type) -> dict[str, str]:
    """Field -> the string below it in the source of a dataclass."""
    # Python does not keep such strings, so they are read from the source.
    source = textwrap.dedent(inspect.getsource(section))
    [definition] = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    docstrings = {}
    name = None
    for node in definition.body:
        if isinstance(node, ast.AnnAssign):
            assert isinstance(node.target, ast.Name)
            name = node.target.id
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = typing.cast(str, node.value.value)
            docstrings[name] = inspect.cleandoc(text)
            name = None
        else:
            # A string that does not follow a field directly is no docstring of it.
            name = None
    return docstrings


def section_meaning(name: str) -> str:
    """First sentence of a section's docstring."""
    section: Any = Config
    for part in name.split("."):
        section = typing.get_type_hints(section)[part]
    docstring = inspect.getdoc(section) or ""
    return _first_paragraph(docstring).rstrip(".")


def origins(args: list[str]) -> dict[str, str]:
    """Dotted name -> the last layer (file or command line) that sets it."""
    origin_of: dict[str, str] = {}
    # The layers come in the order in which they are merged, so later ones overwrite.
    for layer in layers(args):
        for name in _leaves(layer.values, ""):
            origin_of[name] = layer.origin
    return origin_of


def _leaves(values: DictConfig, prefix: str) -> list[str]:
    """Dotted names of the settings that nested values set.

    Args:
        values: a part of a configuration.
        prefix: dotted name of the part with a dot after it; empty for the whole.
    """
    names = []
    for key in map(str, values):
        name = f"{prefix}{key}"
        missing = OmegaConf.is_missing(values, key)
        value = MISSING if missing else values[key]
        # Some settings, such as data.sources, are maps themselves.
        if isinstance(value, DictConfig) and name not in settings():
            names += _leaves(value, f"{name}.")
        elif not missing:
            names.append(name)
    return names


def explain(name: str, args: list[str], kinds_of: KindsOf) -> str:
    """Meaning, unit, value and origin of one setting, as text of several lines.

    Args:
        name: dotted name of a setting, or of a section, which lists its settings.
        args: YAML files and overrides, as for training.
        kinds_of: finds the registered kinds of a setting, which are listed too.

    Raises:
        ValueError: there is no such setting; names the nearest.
    """
    if name not in settings():
        return _explain_section(name)
    setting = settings()[name]
    value: Any = to_dict(load_config(args))
    for part in name.split("."):
        value = value[part]
    origin = origins(args).get(name, "configs/base.yaml")
    lines = [
        name,
        textwrap.indent(setting.meaning, "  "),
        f"  type:  {setting.type}",
        f"  unit:  {setting.unit or 'none'}",
        f"  value: {'null' if value is None else value}",
        f"  from:  {origin}",
    ]
    kinds = kinds_of(name)
    if kinds:
        lines.append("  kinds:")
    width = max(map(len, kinds), default=0)
    for kind, description in kinds.items():
        lines.append(f"    {kind:<{width}}  {description}")
    return "\n".join(lines)


def _explain_section(name: str) -> str:
    """The settings of a section, one a line. Raises ValueError: there is no such section."""
    prefix = f"{name}."
    in_section = [setting for setting in settings().values() if setting.name.startswith(prefix)]
    if not in_section:
        # Raises the error, with the nearest name.
        check_names([name], settings(), "setting", "--explain")
    width = max(len(setting.name) for setting in in_section)
    lines = [f"{name}: {section_meaning(name)}"]
    for setting in in_section:
        lines.append(f"{setting.name:<{width}}  {setting.summary}")
    return "\n".join(lines)


def annotate(text: str) -> str:
    """The lines of base.yaml with the meaning of each setting beside its value.

    Existing comments beside values are replaced; lines of comments and everything else stay.
    """
    # Line by line rather than through a YAML library, which would lose comments and layout.
    path: list[tuple[int, str]] = []
    annotated = []
    for line in text.splitlines():
        match = re.match(r"^( *)([A-Za-z_]\w*):(.*)$", line)
        if not match:
            annotated.append(line)
            continue
        indent = len(match[1])
        # The keys that contain this one are those before it with a smaller indentation.
        path = [(depth, key) for depth, key in path if depth < indent]
        path.append((indent, match[2]))
        name = ".".join(key for _, key in path)
        setting = settings().get(name)
        value = re.split(r"\s+# ", line)[0].rstrip()
        if setting is None:
            annotated.append(value)
        else:
            annotated.append(f"{value:<{COMMENT_COLUMN}}  # {setting.summary}")
    return "\n".join(annotated) + "\n"


def main(args: list[str], kinds_of: KindsOf) -> None:
    """Print the resolved configuration, or with --explain one setting.

    Args:
        args: of the command line.
        kinds_of: finds the registered kinds of a setting. Some registries belong to packages that
            import this one, so that the caller brings them.
    """
    parser = argparse.ArgumentParser(
        prog="duplexmamba config",
        description="Print a configuration, or explain one setting or section of it.",
        epilog="example: duplexmamba config --explain optim.lr configs/preset/tiny.yaml",
    )
    parser.add_argument("--explain", metavar="NAME", help="setting or section, such as optim.lr")
    parser.add_argument("overrides", nargs="*", help="YAML files and key=value overrides")
    parsed = parser.parse_intermixed_args(args)
    overrides = parsed.overrides
    names_no_file = all("=" in override for override in overrides)
    # Without a stage no configuration is complete; this is the first one of the README.
    if names_no_file:
        overrides = ["configs/preset/tiny.yaml", "configs/stage/asr.yaml", *overrides]
    if parsed.explain:
        print(explain(parsed.explain, overrides, kinds_of))
    else:
        values = to_dict(load_config(overrides))
        print(OmegaConf.to_yaml(OmegaConf.create(values)), end="")


def rewrite_base() -> None:
    """Write the meanings into base.yaml, after the schema has changed."""
    path = CONFIGS / "base.yaml"
    path.write_text(annotate(path.read_text()))


if __name__ == "__main__":
    rewrite_base()
