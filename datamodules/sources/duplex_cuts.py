"""Roles in the duplex cuts of NVIDIA NeMo, whose recording holds the user alone.

Such a cut has the agent's audio under `custom.target_audio`, on the same clock, and supervisions of
both: `speaker` says "user", or "agent" or "assistant", in any case. Source: NeMo,
docs/source/speechlm2/datasets.rst.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

from datamodules.sources.manifest_entry import EntryOrSkipped, Skipped

Record = dict[str, Any]
Role = Literal["user", "agent"]
ROLES: dict[str, Role] = {"user": "user", "agent": "agent", "assistant": "agent"}
"""Speaker of a supervision, in lower case -> whose words they are."""
FRAME_STAMP = re.compile(r"<\|\d+\|>")
"""Number of a frame of 0.08 s beside a word, as in "<|3|> hello <|7|>"."""
OF_AGENT = "of the agent, whose words are in target_audio and not in the recording"
UNKNOWN_ROLE = "in a duplex cut, of a speaker other than user, agent and assistant"


def role_of(supervision: Record) -> Role | None:
    """Whose words a supervision has; None: its speaker names no role."""
    return ROLES.get(str(supervision.get("speaker") or "").lower())


def is_duplex(cut: Record) -> bool:
    """Whether the recording of a cut lacks the words of the agent.

    Without `target_audio` this is so where the agent and the user are supervised in one channel.
    """
    if (cut.get("custom") or {}).get("target_audio"):
        return True
    channels: dict[Role | None, list[Any]] = {"user": [], "agent": []}
    for supervision in cut.get("supervisions") or []:
        channels.setdefault(role_of(supervision), []).append(supervision.get("channel", 0))
    return any(channel in channels["user"] for channel in channels["agent"])


def users_part(supervisions: Sequence[Record]) -> tuple[list[Record], list[EntryOrSkipped]]:
    """Separate the user's supervisions of a duplex cut from the others.

    What the agent says up to the user's next words is the answer.

    Args:
        supervisions: those of one cut.

    Returns:
        The user's supervisions with `custom.answer`, in order of time, and the reasons why the
        others are left out.
    """
    answers: list[list[str]] = []
    users: list[Record] = []
    skipped: list[EntryOrSkipped] = []
    # Cuts that were cut out of longer ones list supervisions in any order.
    for supervision in sorted(supervisions, key=lambda supervision: supervision["start"]):
        role = role_of(supervision)
        if role == "user":
            users.append(supervision)
            answers.append([])
        elif role == "agent":
            skipped.append(Skipped(OF_AGENT, ""))
            # A greeting, before the user has spoken, answers nothing.
            if answers:
                answers[-1].append(without_stamps(supervision.get("text") or ""))
        else:
            skipped.append(Skipped(UNKNOWN_ROLE, str(supervision["id"])))
    answered = []
    for supervision, words in zip(users, answers, strict=True):
        custom = dict(supervision.get("custom") or {})
        if words:
            custom["answer"] = " ".join(words)
        answered.append({**supervision, "custom": custom})
    return answered, skipped


def without_stamps(text: str) -> str:
    """Text without the numbers of frames between its words."""
    return " ".join(FRAME_STAMP.sub(" ", text).split())
