"""Score a finished run: `python evaluate.py --help`."""

import sys

from evaluation.main import main, run_command

__all__ = ["main"]

if __name__ == "__main__":
    run_command(sys.argv[1:])
