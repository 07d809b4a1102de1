"""The command line as `python -m duplexmamba_cli`."""

import sys

from duplexmamba_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
