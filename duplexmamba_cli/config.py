"""duplexmamba config: explain the configuration."""

import importlib
from collections.abc import Sequence

from duplexmamba_cli.config_files import find_config_files
from duplexmamba_cli.registries import kinds_of
from lightning_modules.trainer.exits import exit_cleanly, quiet_libraries


def main(args: Sequence[str]) -> None:
    """Explain what the arguments name; `configs.explain` has its own options and help."""
    quiet_libraries()
    with exit_cleanly():
        explain = importlib.import_module("configs.explain")
        explain.main(find_config_files(args), kinds_of)
