"""duplexmamba voices: speak the utterances of slow synthesisers into their cache."""

import argparse
from collections.abc import Sequence

from datamodules import fill_cache
from duplexmamba_cli.config_files import add_config_arguments, config_args
from lightning_modules.trainer.exits import exit_cleanly, quiet_libraries

DESCRIPTION = """\
Speak the first training utterances, and everything that is scored, into the cache of slow
synthesisers, which all stages, runs and sweeps share. A killed command goes on where it was.

example:
  duplexmamba voices 3000 --stage encoder 'data.voices={flite: 1}'
"""


def main(args: Sequence[str]) -> None:
    """Fill the cache as the arguments say."""
    parser = argparse.ArgumentParser(
        prog="duplexmamba voices",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("count", type=int, help="number of training utterances, or dialogues")
    add_config_arguments(parser)
    parsed = parser.parse_intermixed_args(args)
    quiet_libraries()
    with exit_cleanly():
        fill_cache.main([str(parsed.count), *config_args(parsed)])
