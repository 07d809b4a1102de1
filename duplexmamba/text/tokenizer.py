"""Text and ids: the markers of a prompt, the three turn states, instructions, the tokenizer.

A prompt reads: user marker, instruction, begin of speech, [speech embeddings], end of speech, turn state, assistant
marker, response, end of text. The published tokenizer has room for three new ids, those of the turn states; there the
other markers are ordinary text of several ids, which is why a marker is always a list.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

TurnState = Literal["response", "incomplete", "ignore"]
END_OF_TEXT = "<|endoftext|>"
TURN_STATES: dict[TurnState, str] = {
    "response": "<|response|>", "incomplete": "<|incomplete|>", "ignore": "<|ignore|>"
}  # fmt: skip
USER, ASSISTANT, SPEECH, END_OF_SPEECH, SILENCE = (
    "<|user|>",
    "<|assistant|>",
    "<|speech|>",
    "<|/speech|>",
    "<|silence|>",
)
TRANSCRIBE = ("transcribe the speech", "write down what you hear", "what was said")
ANSWER = ("answer the question", "reply to the speaker", "respond to the speech")
BPE_SIZE = 1024


def normalise(text: str) -> str:
    """The project's normaliser for training and scores: lower case, punctuation out (apostrophes inside words stay),
    single spaces."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    text = "".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text)
    return " ".join(re.sub(r"(?<!\w)'|'(?!\w)", " ", text).split())


class Tokenizer:
    """A tokenizer that knows the markers."""

    def __init__(self, tokenizer: BackendTokenizer):
        known = tokenizer.get_vocab()
        tokenizer.add_special_tokens([m for m in TURN_STATES.values() if m not in known])
        self._tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size()
        ids = tokenizer.get_vocab()
        self.end: int = ids[END_OF_TEXT]
        self.turn_states = {state: ids[marker] for state, marker in TURN_STATES.items()}

    @classmethod
    def train(cls, texts: Iterable[str]) -> "Tokenizer":
        """Byte-level BPE of `BPE_SIZE` pieces: lossless for any text."""
        tokenizer = BackendTokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=BPE_SIZE,
            special_tokens=[
                END_OF_TEXT,
                USER,
                ASSISTANT,
                SPEECH,
                END_OF_SPEECH,
                SILENCE,
                *TURN_STATES.values(),
            ],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, source: str) -> "Tokenizer":
        """From a folder or the hub. Raises ValueError if there is none, or it lacks the end-of-text marker."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(source).backend_tokenizer
        except (OSError, ValueError) as error:
            raise ValueError(
                f"tokenizer.source={source!r}: no readable tokenizer there ({str(error)[:200]})"
            ) from None
        if tokenizer.token_to_id(END_OF_TEXT) is None:
            raise ValueError(
                f"tokenizer.source={source!r} has no {END_OF_TEXT}; use a GPT-NeoX style tokenizer or bpe"
            )
        return cls(tokenizer)

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """The inverse of `to_json`."""
        return cls(BackendTokenizer.from_str(text))

    def to_json(self) -> str:
        """Everything, as a string for a checkpoint."""
        return self._tokenizer.to_str()

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """Text without markers."""
        return self._tokenizer.decode(ids, skip_special_tokens=True).strip()

    def before_speech(self, instruction: str) -> list[int]:
        return self.encode(f"{USER}{instruction}{SPEECH}")

    def words(self, text: str) -> list[int]:
        """Speech as text: every word with its space, as inside a sentence, so that a word has the same ids anywhere."""
        return self.encode("".join(f" {word}" for word in text.split()))

    def end_of_speech(self) -> list[int]:
        """What is put behind speech to ask for its state."""
        return self.encode(END_OF_SPEECH)

    def after_speech(self, turn_state: TurnState) -> list[int]:
        """All that stands between speech and response."""
        return self.encode(f"{END_OF_SPEECH}{TURN_STATES[turn_state]}{ASSISTANT}")

    def response(self, text: str) -> list[int]:
        return [*self.words(text), self.end]
