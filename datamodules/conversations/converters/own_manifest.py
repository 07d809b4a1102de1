"""A manifest of conversations, as it is: for checks and statistics."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.conversations.conversation import Conversation
from datamodules.conversations.manifest import iterate_conversations
from datamodules.sources.manifest_entry import Skipped


def convert(root: Path) -> Iterator[Conversation | Skipped]:
    """Read a manifest, or the folder that holds conversations.jsonl.gz."""
    yield from iterate_conversations(root)
