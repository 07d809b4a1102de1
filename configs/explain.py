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
        text = " ".join(self.meaning.split("\n\n")[0].split())
        return re.split(r"(?<=[a-z0-9)`])\. ", text)[0].rstrip(".")

    @property
    def unit(self) -> str:
        """Unit that the name ends in, "" for a plain number or a word."""
        for ending, unit in UNITS.items():
            if self.name.endswith(ending):
                return unit
        return ""


@functools.cache
def settings() -> dict[str, Setting]:
    """Every setting by its dotted name, in the order of the schema."""
    return {setting.name: setting for setting in _settings_of(Config, "")}


def _settings_of(section: type, prefix: str) -> list[Setting]:
    meanings = _field_docstrings(section)
    types = typing.get_type_hints(section)
    found = []
    for field in dataclasses.fields(section):
        name = f"{prefix}{field.name}"
        kind = types[field.name]
        if dataclasses.is_dataclass(kind):
            found += _settings_of(typing.cast(type, kind), f"{name}.")
        else:
            plain = isinstance(kind, type) and not typing.get_args(kind)
            shown = kind.__name__ if plain else str(kind).replace("typing.", "")
            found.append(Setting(name, meanings.get(field.name, ""), shown))
    return found


@functools.cache
def _field_docstrings(section: type) -> dict[str, str]:
    """Field -> the string below it in the source of a dataclass."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    name = None
    for node in definition.body:
        if isinstance(node, ast.AnnAssign):
            assert isinstance(node.target, ast.Name)
            name = node.target.id
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found[name] = inspect.cleandoc(typing.cast(str, node.value.value))
            name = None
        else:
            name = None
    return found


def section_meaning(name: str) -> str:
    """First sentence of a section's docstring."""
    section: Any = Config
    for part in name.split("."):
        section = typing.get_type_hints(section)[part]
    return " ".join((inspect.getdoc(section) or "").split("\n\n")[0].split()).rstrip(".")


def origins(args: list[str]) -> dict[str, str]:
    """Dotted name -> the last layer (file or command line) that sets it."""
    found: dict[str, str] = {}
    for layer in layers(args):
        for name in _leaves(layer.values, ""):
            found[name] = layer.origin
    return found


def _leaves(values: DictConfig, prefix: str) -> list[str]:
    found = []
    for key in map(str, values):
        name = f"{prefix}{key}"
        missing = OmegaConf.is_missing(values, key)
        value = MISSING if missing else values[key]
        if isinstance(value, DictConfig) and name not in settings():
            found += _leaves(value, f"{name}.")
        elif not missing:
            found.append(name)
    return found


def explain(name: str, args: list[str]) -> str:
    """Meaning, unit, value and origin of one setting, as text of several lines.

    Args:
        name: dotted name of a setting, or of a section, which lists its settings.
        args: YAML files and overrides, as for training.

    Raises:
        ValueError: there is no such setting; names the nearest.
    """
    if name not in settings():
        prefix = f"{name}."
        in_section = [s for s in settings().values() if s.name.startswith(prefix)]
        if not in_section:
            check_names([name], settings(), "setting", "--explain")
        width = max(len(setting.name) for setting in in_section)
        lines = [f"{setting.name:<{width}}  {setting.summary}" for setting in in_section]
        return "\n".join([f"{name}: {section_meaning(name)}", *lines])

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
    return "\n".join(lines)


def annotate(text: str) -> str:
    """The lines of base.yaml with the meaning of each setting beside its value.

    Existing comments beside values are replaced; lines of comments and everything else stay.
    """
    path: list[tuple[int, str]] = []
    annotated = []
    for line in text.splitlines():
        match = re.match(r"^( *)([A-Za-z_]\w*):(.*)$", line)
        if not match:
            annotated.append(line)
            continue
        indent = len(match[1])
        path = [(depth, key) for depth, key in path if depth < indent]
        path.append((indent, match[2]))
        setting = settings().get(".".join(key for _, key in path))
        value = re.split(r"\s+# ", line)[0].rstrip()
        if setting is None:
            annotated.append(value)
        else:
            annotated.append(f"{value:<{COMMENT_COLUMN}}  # {setting.summary}")
    return "\n".join(annotated) + "\n"


def main(args: list[str]) -> None:
    """Print the resolved configuration, or with --explain one setting."""
    parser = argparse.ArgumentParser(
        prog="duplexmamba config",
        description="Print a configuration, or explain one setting or section of it.",
        epilog="example: duplexmamba config --explain optim.lr configs/preset/tiny.yaml",
    )
    parser.add_argument("--explain", metavar="NAME", help="setting or section, such as optim.lr")
    parser.add_argument("overrides", nargs="*", help="YAML files and key=value overrides")
    parsed = parser.parse_intermixed_args(args)
    files = parsed.overrides
    if not any("=" not in override for override in files):
        files = ["configs/preset/tiny.yaml", "configs/stage/asr.yaml", *files]
    if parsed.explain:
        print(explain(parsed.explain, files))
    else:
        print(OmegaConf.to_yaml(OmegaConf.create(to_dict(load_config(files)))), end="")


def rewrite_base() -> None:
    """Write the meanings into base.yaml, after the schema has changed."""
    path = CONFIGS / "base.yaml"
    path.write_text(annotate(path.read_text()))


if __name__ == "__main__":
    rewrite_base()
