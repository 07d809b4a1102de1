"""JSON of a corpus -> values; what JSON allows but no corpus means is an error that names the place."""

import json
import re
from typing import Any

Pairs = list[tuple[str, Any]]
"""Keys and values of an object in the order of the text."""
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character, which JSON can write as an escape but no text can hold."""
ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str, location: str) -> Any:
    """Read a JSON value.

    Args:
        text: the JSON.
        location: its file, and line if it is one of several, for messages.

    Returns:
        The value; None where the text is no JSON.

    Raises:
        ValueError: an object has a key twice, or a text has half a character.
    """

    def to_dict(pairs: Pairs) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            repeated = next(name for name in names if names.count(name) > 1)
            raise _RepeatedKeyError(repeated)
        return values

    try:
        value = json.loads(text, object_pairs_hook=to_dict)
    except _RepeatedKeyError as error:
        raise ValueError(
            f"{location}: an object has the key {error} twice; keep one of them"
        ) from None
    except (ValueError, RecursionError):
        return None
    # Only then, since a search in every text takes time.
    if ESCAPED_SURROGATE.search(text) and LONE_SURROGATE.search(_texts(value)):
        raise ValueError(
            f"{location}: \\ud... stands for half a character; write both halves, or the character "
            "itself in UTF-8"
        )
    return value


def _texts(value: Any) -> str:
    """All texts within a value, keys included."""
    return json.dumps(value, ensure_ascii=False)


class _RepeatedKeyError(Exception):
    """The key that an object has twice."""
