"""duplexmamba data: check a corpus and prepare it for training."""

import argparse
from collections.abc import Sequence

from datamodules import prepare
from duplexmamba_cli.config_files import add_config_arguments, config_args
from lightning_modules.trainer.exits import exit_cleanly, quiet_libraries

DESCRIPTION = """\
Check a corpus before anything is trained on it, and write a manifest to train on.

examples:
  duplexmamba data librispeech /corpora/LibriSpeech
  duplexmamba data my_speech my/folder --preset small
  duplexmamba train data.path=runs/data/my_speech
"""


def main(args: Sequence[str]) -> None:
    """Prepare the corpus that the arguments name."""
    parser = argparse.ArgumentParser(
        prog="duplexmamba data",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name", help="librispeech or another known corpus, or a name of your choice"
    )
    parser.add_argument("root", help="folder, file or address of the corpus")
    add_config_arguments(parser)
    parsed = parser.parse_intermixed_args(args)
    quiet_libraries()
    with exit_cleanly():
        prepare.main([parsed.name, parsed.root, *config_args(parsed)])
