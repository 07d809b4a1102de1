"""The chat template of an instruct model, with speech in the turn of the user."""

import dataclasses
from typing import Any

from jinja2.exceptions import TemplateError

USER_TEXT = "first-turn-of-the-user"
ANSWER_TEXT = "turn-of-the-assistant"
NEXT_TEXT = "second-turn-of-the-user"
"""Contents of a conversation that show what a template puts around them."""


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """What a chat template puts before and after the content of a user's turn."""

    before_first: str
    """Start of a conversation, with the system prompt that the template has, and of its first turn."""
    before_next: str
    """Between the token that ends a response and the next turn of the user."""
    after: str
    """Between the content of a user's turn and the response."""


def read_chat_template(tokenizer: Any, source: str) -> tuple[ChatTemplate, str] | None:
    """Return the template of a tokenizer of transformers, and the token that ends a response.

    Args:
        tokenizer: a fast tokenizer of transformers.
        source: folder or hub name, for messages.

    Returns:
        None if it has no template.

    Raises:
        ValueError: its template does not render a plain conversation of user and assistant.
    """
    if not tokenizer.chat_template:
        return None
    messages = [
        {"role": "user", "content": USER_TEXT},
        {"role": "assistant", "content": ANSWER_TEXT},
        {"role": "user", "content": NEXT_TEXT},
    ]
    try:
        # templates of models that reason would otherwise let them begin with it
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        before_first, rest = text.split(USER_TEXT)
        _, rest = rest.split(ANSWER_TEXT)
        before_next, after = rest.split(NEXT_TEXT)
    except (TemplateError, ValueError) as error:
        raise ValueError(
            f"tokenizer.source={source!r}: its chat template does not render a conversation of user "
            f"and assistant ({str(error)[:200]}); remove chat_template from a copy of it"
        ) from None
    end = _end_of_response(tokenizer, before_next)
    template = ChatTemplate(before_first, before_next.removeprefix(end), after)
    return template, end


def _end_of_response(tokenizer: Any, after_answer: str) -> str:
    """Return the special token that follows a response; that at the end of a text if none does."""
    specials = [each.content for each in tokenizer.added_tokens_decoder.values() if each.special]
    following = [token for token in specials if after_answer.startswith(token)]
    if following:
        return max(following, key=len)
    return str(tokenizer.eos_token)
