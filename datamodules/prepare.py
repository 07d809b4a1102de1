"""`make data`: check a corpus, and prepare it for training.

    python -m datamodules.prepare NAME ROOT configs/preset/tiny.yaml configs/stage/asr.yaml

NAME says which kind of corpus it is: recorded conversations by the formats of
`datamodules.conversations`, single utterances otherwise.
"""

import sys
from pathlib import Path

from datamodules.conversations import format_of
from datamodules.conversations import prepare as conversations
from datamodules.sources import prepare as utterances


def main(args: list[str]) -> Path:
    """Run the command.

    Args:
        args: name of the corpus, its folder, and the arguments of `load_config`.

    Returns:
        The folder with the report and the manifest.

    Raises:
        ValueError: nothing is usable, or too much is not.
    """
    conversation_format = format_of(args[0])
    if conversation_format is not None:
        return conversations.main(conversation_format, args)
    return utterances.main(args)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
