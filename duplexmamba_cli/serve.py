"""duplexmamba serve: talk with a finished run, on a web page or through a recording."""

from collections.abc import Sequence

from lightning_modules.trainer.exits import exit_cleanly, quiet_libraries
from serving.command import main as serve


def main(args: Sequence[str]) -> None:
    """Serve as the arguments say."""
    quiet_libraries()
    with exit_cleanly():
        serve(list(args))
