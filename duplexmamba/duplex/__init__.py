"""Live sessions: conversations in which the model listens while it responds.

To add a kind of session, write a subclass of `Session` and register it in `DUPLEX_KINDS`.
"""

import dataclasses

from duplexmamba.duplex.fork import ForkSession
from duplexmamba.duplex.multiplex import MultiplexSession
from duplexmamba.duplex.session import Session


@dataclasses.dataclass(frozen=True)
class DuplexKind:
    """A kind of session, selected by `duplex.kind`."""

    name: str
    session: type[Session]
    """Constructed from the model, its tokenizer and the `duplex` section of the configuration."""
    description: str
    """For `duplexmamba config --explain duplex.kind`."""


DUPLEX_KINDS = {
    kind.name: kind
    for kind in (
        DuplexKind(
            "fork",
            ForkSession,
            "a forked branch of the language model listens while another one responds",
        ),
        DuplexKind(
            "multiplex",
            MultiplexSession,
            "one sequence that alternates slices of speech and slices of the response",
        ),
    )
}
"""All kinds of sessions by name."""
