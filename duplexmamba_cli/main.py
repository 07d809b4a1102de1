"""The command `duplexmamba`: its subcommands, each in a module of this package.

A subcommand's module is imported only when it is called: some need libraries that others do
without.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

SUBCOMMANDS = {
    "train": "train a stage, and first the stages that it starts from",
    "evaluate": "score a finished run",
    "serve": "talk with a finished run, on a web page or by a recording",
    "data": "check a corpus and prepare it for training",
    "voices": "speak the utterances of slow synthesisers into their cache",
    "plan": "estimate the GPU memory that a training needs",
    "sweep": "run a sweep of trainings",
    "report": "write the report of a sweep",
    "config": "explain the configuration",
}
"""Subcommand -> what it does. The module of the same name has a function `main(args)`."""
EXAMPLES = """\
examples:
  duplexmamba train --stage asr --preset tiny optim.lr=1e-3
  duplexmamba evaluate wer runs/latest
  duplexmamba serve runs/latest

`duplexmamba COMMAND --help` shows the options of a command.
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        args: the command line without the program's name; None: that of this process.

    Returns:
        The exit code.
    """
    parsed = _parser().parse_args(sys.argv[1:] if args is None else args)
    module = importlib.import_module(f"duplexmamba_cli.{parsed.command}")
    # a subcommand returns an exit code, or nothing where it has succeeded
    return module.main(parsed.args) or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="duplexmamba",
        description="Speech-to-text conversation models that listen while they answer.",
        epilog=_command_list() + EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=SUBCOMMANDS, metavar="COMMAND", help="see below")
    # everything after the subcommand, options included, is its own
    parser.add_argument("args", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _command_list() -> str:
    lines = ["commands:"]
    for name, description in SUBCOMMANDS.items():
        lines.append(f"  {name:<10}{description}")
    return "\n".join([*lines, "", ""])
