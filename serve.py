"""Talk with a finished run: `python serve.py --help` shows all options."""

import sys

from lightning_modules.trainer.hardware import exit_cleanly, quiet_libraries
from serving.command import main

if __name__ == "__main__":
    quiet_libraries()
    with exit_cleanly():
        main(sys.argv[1:])
