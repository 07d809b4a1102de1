"""Configuration files on the command line: short forms, and the files that are installed with the
package.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from configs.recipes import CONFIGS, STAGES

DEFAULT_STAGE = "asr"
DEFAULT_PRESET = "tiny"


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --stage, --preset, and files and overrides to a parser; `config_args` reads them."""
    presets = sorted(path.stem for path in (CONFIGS / "preset").glob("*.yaml"))
    parser.add_argument(
        "--stage", choices=STAGES, help=f"the stage's configuration (default {DEFAULT_STAGE})"
    )
    parser.add_argument(
        "--preset", choices=presets, help=f"the model's size (default {DEFAULT_PRESET})"
    )
    parser.add_argument(
        "config",
        nargs="*",
        metavar="FILE|key=value",
        help="more YAML files of the configuration, and overrides of single values",
    )


def config_args(parsed: argparse.Namespace) -> list[str]:
    """Return files and overrides for `configs.loading.load_config`.

    The files of preset and stage come first, unless a file from a folder `preset` or `stage` is
    named explicitly.

    Raises:
        ValueError: --stage or --preset is given in addition to such a file.
    """
    args = find_config_files(parsed.config)
    files = [arg for arg in args if not is_override(arg)]
    overrides = [arg for arg in args if is_override(arg)]
    preset = _short_form("preset", parsed.preset, DEFAULT_PRESET, files)
    stage = _short_form("stage", parsed.stage, DEFAULT_STAGE, files)
    return [*preset, *stage, *files, *overrides]


def _short_form(kind: str, name: str | None, default: str, files: Sequence[str]) -> list[str]:
    """The packaged file of a preset or stage, or nothing where the files have one."""
    named = [file for file in files if Path(file).parent.name == kind]
    if not named:
        return [str(CONFIGS / kind / f"{name or default}.yaml")]
    if name is not None:
        raise ValueError(f"--{kind} {name} and {named[0]}: give one of the two")
    return []


def find_config_files(args: Sequence[str]) -> list[str]:
    """Replace paths such as configs/preset/tiny.yaml that do not exist by the installed files.

    Args:
        args: files and overrides.
    """
    found = []
    for arg in args:
        # configs/ in a checkout, and the package `configs` where it is installed
        installed = CONFIGS.parent / arg
        is_missing = not is_override(arg) and not Path(arg).exists()
        if is_missing and installed.is_relative_to(CONFIGS) and installed.is_file():
            arg = str(installed)
        found.append(arg)
    return found


def is_override(arg: str) -> bool:
    """Whether an argument is key=value, not a file."""
    return "=" in arg
