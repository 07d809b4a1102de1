"""A manifest of conversations, as it is: for checks and statistics."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.conversations.conversation import Conversation
from datamodules.conversations.manifest import read_conversations
from datamodules.sources.manifest_entry import Skipped


def convert(root: Path) -> Iterator[Conversation | Skipped]:
    """Read a manifest, or the folder that holds conversations.jsonl.gz."""
    conversations, skipped = read_conversations(root)
    yield from conversations
    yield from skipped
