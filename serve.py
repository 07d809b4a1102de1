"""Talk with a finished run, on a web page or by a recording: `python serve.py --help`."""

import sys

from duplexmamba_cli.serve import main as run_command
from duplexmamba_cli.serve import serve as main

__all__ = ["main"]

if __name__ == "__main__":
    run_command(sys.argv[1:])
