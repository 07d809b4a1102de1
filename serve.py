"""Talk with a finished run: `python serve.py --help` shows all options."""

import sys

from duplexmamba_cli.serve import main as run_command
from serving.command import main

__all__ = ["main"]

if __name__ == "__main__":
    run_command(sys.argv[1:])
