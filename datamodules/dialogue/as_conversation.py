"""Composed dialogues as conversations of two channels, in the form of the manifest."""

from collections.abc import Sequence
from pathlib import Path

from configs.schema import Config
from datamodules.conversations.conversation import Conversation, Side, Span, SpokenTurn
from datamodules.dialogue.dialogues import Dialogue
from datamodules.dialogue.turns import RULES, Turn
from datamodules.synthetic.grammar import Split

USER_CHANNEL = 0
AGENT_CHANNEL = 1


def conversation_of_dialogue(
    dialogue: Dialogue, path: Path, spoken: Sequence[Span], split: Split, config: Config
) -> Conversation:
    """A composed dialogue as a conversation, whose labels are those of the dialogue.

    Args:
        dialogue: the dialogue.
        path: its sound of two channels, of which the first one is the user.
        spoken: begin and end of the sound of each answer.
        split: its split.
        config: the configuration that it is composed by.
    """
    user_turns = []
    for turn in dialogue.turns:
        if turn.kind != "silence":
            user_turns.append(_user_turn(turn))
    replies = []
    for answer, (start_s, end_s) in zip(dialogue.answers, spoken, strict=True):
        if start_s < end_s:
            question = _user_turn(dialogue.turns[answer.turn])
            replies.append((question, start_s, end_s, dialogue.turns[answer.turn].answer))
    starts_s = [turn.start_s for turn in user_turns] + [reply[1] for reply in replies]
    order = sorted(range(len(starts_s)), key=lambda index: starts_s[index])
    position = {index: place for place, index in enumerate(order)}
    turns = list(user_turns)
    for question, start_s, end_s, text in replies:
        to = position[user_turns.index(question)]
        turns.append(SpokenTurn("agent", start_s, end_s, text, kind="answer", to=to))
    return Conversation(
        id=dialogue.id,
        split=split,
        source=f"{config.dialogue.timing} dialogues",
        licence="",
        language="en",
        duration_s=len(dialogue.samples) / config.features.sample_rate_hz,
        user=Side(path, USER_CHANNEL),
        agent=Side(path, AGENT_CHANNEL),
        turns=tuple(turns[index] for index in order),
    )


def _user_turn(turn: Turn) -> SpokenTurn:
    rule = RULES[turn.kind]
    return SpokenTurn(
        who="user",
        start_s=turn.start_s,
        end_s=turn.end_s,
        text=turn.text,
        kind=turn.kind,
        answered=rule.answered if rule.foreground else None,
        pauses=turn.pauses_s,
        speaker=turn.speaker,
    )
