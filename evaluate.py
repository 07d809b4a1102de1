"""Score a finished run: `python evaluate.py --help`."""

import sys

from duplexmamba_cli.evaluate import evaluate as main
from duplexmamba_cli.evaluate import main as run_command

__all__ = ["main"]

if __name__ == "__main__":
    run_command(sys.argv[1:])
