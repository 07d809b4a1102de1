"""Text and token ids: the tokenizer, the markers of a prompt, the turn states and instructions.

A prompt is: user marker, instruction, start of speech, [speech embeddings], end of speech, turn
state, assistant marker, response, end of text.

The published tokenizer has room for three new ids, which the turn states take. With it the other
markers are ordinary text of several ids, so a marker is always encoded to a list of ids.

The tokenizer of an instruct model has a chat template, which takes the place of the markers of user
and assistant; the rest is the content of the user's turn.
"""

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from duplexmamba.text.chat_template import ChatTemplate, read_chat_template

TurnState = Literal["response", "incomplete", "ignore"]
"""State of the user's turn: to be answered now, not finished yet, or not addressed to the model."""

TURN_STATE_MARKERS: dict[TurnState, str] = {
    "response": "<|response|>",
    "incomplete": "<|incomplete|>",
    "ignore": "<|ignore|>",
}
"""Turn state -> its marker."""

END_OF_TEXT = "<|endoftext|>"
"""End of text of a trained tokenizer, and of one from elsewhere that names no other."""
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
SPEECH = "<|speech|>"
END_OF_SPEECH = "<|/speech|>"
SILENCE = "<|silence|>"
"""Marker of silence in text that stands in for speech; also the blank of CTC."""

TRANSCRIBE_INSTRUCTIONS = ("transcribe the speech", "write down what you hear", "what was said")
"""Instructions to transcribe. Training draws from all of them, other uses take the first."""

ANSWER_INSTRUCTIONS = ("answer the question", "reply to the speaker", "respond to the speech")
"""Instructions to answer. Training draws from all of them, other uses take the first."""

BPE_SIZE = 1024
"""Vocabulary size of a tokenizer trained by `Tokenizer.train`."""

MARKED_TURNS = ChatTemplate(before_first=USER, before_next=USER, after=ASSISTANT)
"""The turns of a tokenizer without a chat template."""
CHAT_KEY = "chat_template"
"""Key of a chat template in the JSON of a tokenizer."""


MARKER = re.compile(r"<\|[^<>|\s]{1,40}\|>")
"""A marker within text: of this project, of the published tokenizer, or of another model."""

APOSTROPHES = "’‘‛ʼʻʹ`´′＇՚\u0092"
"""Characters that are written for an apostrophe. U+0092 is that of cp1252 read as Latin-1."""

_AS_APOSTROPHE = str.maketrans(dict.fromkeys(APOSTROPHES, "'"))


def normalise(text: str) -> str:
    """Normalise text for training and scores.

    The result is in lower case with single spaces and without punctuation, except for apostrophes
    inside words. Invisible characters, such as soft hyphens and zero-width spaces, are removed.
    """
    # Before NFKC, which makes a space and a combining accent of an acute accent.
    text = text.translate(_AS_APOSTROPHE)
    text = without_invisible(unicodedata.normalize("NFKC", text)).lower()
    text = "".join(_word_character_or_space(character) for character in text)
    # Apostrophes at the start or end of a word are quotation marks.
    text = re.sub(r"(?<!\w)'|'(?!\w)", " ", text)
    return " ".join(text.split())


def without_invisible(text: str) -> str:
    """Remove format characters (Unicode category Cf), which are not seen and do not part words."""
    if text.isascii():
        return text
    return "".join(character for character in text if unicodedata.category(character) != "Cf")


def without_markers(text: str) -> str:
    """Replace the markers of a prompt, which nobody says, by spaces.

    Text of a corpus could otherwise end a response or change the turn state.
    """
    return MARKER.sub(" ", text)


def _word_character_or_space(character: str) -> str:
    """Keep letters, marks, digits and apostrophes; replace any other character by a space."""
    if character == "'":
        return character
    category = unicodedata.category(character)[0]
    return character if category in "LMN" else " "


class Tokenizer:
    """A tokenizer that knows the markers of a prompt.

    Attributes:
        vocab_size: vocabulary size.
        eos_id: id of the end of text.
        turn_state_ids: turn state -> id of its marker.
        added_ids: ids of the markers that the tokenizer did not have: no model knows them yet.
    """

    _turns = MARKED_TURNS

    def __init__(
        self,
        tokenizer: BackendTokenizer,
        end_of_text: str = END_OF_TEXT,
        turns: ChatTemplate = MARKED_TURNS,
    ):
        """Wrap a tokenizer of the library `tokenizers`; markers of turn states are added to it.

        Args:
            tokenizer: the library's.
            end_of_text: its token that ends a text.
            turns: what stands before and after a turn of the user.
        """
        known = tokenizer.get_vocab()
        missing = [marker for marker in TURN_STATE_MARKERS.values() if marker not in known]
        tokenizer.add_special_tokens(missing)
        self._tokenizer = tokenizer
        self._turns = turns
        self.vocab_size = tokenizer.get_vocab_size()
        ids = tokenizer.get_vocab()
        self.eos_id: int = ids[end_of_text]
        if end_of_text != END_OF_TEXT:
            # the place for it in the library's JSON; `encode` itself adds no tokens
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"$A {end_of_text}", special_tokens=[(end_of_text, self.eos_id)]
            )
        self.turn_state_ids = {state: ids[marker] for state, marker in TURN_STATE_MARKERS.items()}
        self.added_ids = frozenset(ids[marker] for marker in missing)

    @classmethod
    def train(cls, texts: Iterable[str]) -> "Tokenizer":
        """Train byte-level BPE with `BPE_SIZE` entries, which encodes any text without loss."""
        tokenizer = BackendTokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        markers = [END_OF_TEXT, USER, ASSISTANT, SPEECH, END_OF_SPEECH, SILENCE]
        trainer = trainers.BpeTrainer(
            vocab_size=BPE_SIZE,
            special_tokens=[*markers, *TURN_STATE_MARKERS.values()],
            # All 256 bytes, also those that the texts do not contain.
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, source: str) -> "Tokenizer":
        """Load a tokenizer from a folder or from the Hugging Face hub.

        Args:
            source: path of the folder or name on the hub.

        Raises:
            ValueError: there is no readable tokenizer, it has no end-of-text token, or a chat
                template that cannot be used.
        """
        try:
            loaded = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            reason = str(error)[:200]
            raise ValueError(
                f"tokenizer.source={source!r}: no readable tokenizer there ({reason}); "
                "name a folder or a model on the hub, or use bpe"
            ) from None
        tokenizer = loaded.backend_tokenizer
        turns = MARKED_TURNS
        end_of_text = loaded.eos_token or END_OF_TEXT
        chat = read_chat_template(loaded, source)
        if chat is not None:
            turns, end_of_text = chat
        if tokenizer.token_to_id(end_of_text) is None:
            raise ValueError(
                f"tokenizer.source={source!r} has no {end_of_text} and names no other token that "
                "ends a text; set eos_token in its tokenizer_config.json, or use bpe"
            )
        return cls(tokenizer, end_of_text, turns)

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """Restore a tokenizer from the result of `to_json`."""
        turns = MARKED_TURNS
        if f'"{CHAT_KEY}"' in text:
            content = json.loads(text)
            if CHAT_KEY in content:
                turns = ChatTemplate(**content.pop(CHAT_KEY))
                text = json.dumps(content)
        return cls(BackendTokenizer.from_str(text), _end_of_text(text), turns)

    def to_json(self) -> str:
        """Serialise the whole tokenizer as JSON, for checkpoints."""
        text = self._tokenizer.to_str()
        if self._turns == MARKED_TURNS:
            return text
        content = json.loads(text)
        content[CHAT_KEY] = dataclasses.asdict(self._turns)
        return json.dumps(content)

    def encode(self, text: str) -> list[int]:
        """Encode text; markers in it become their ids, and nothing is added."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """Decode ids to text without markers and without spaces at the ends."""
        return self._tokenizer.decode(ids, skip_special_tokens=True).strip()

    def prompt_before_speech(self, instruction: str) -> list[int]:
        """Encode the prompt before speech: user marker, instruction, start of speech.

        A chat template begins the conversation and the user's turn in place of the marker.
        """
        return self.encode(f"{self._turns.before_first}{instruction}{SPEECH}")

    def prompt_before_next_speech(self, instruction: str) -> list[int]:
        """Encode the same prompt after a response, which does not begin the conversation again."""
        return self.encode(f"{self._turns.before_next}{instruction}{SPEECH}")

    def encode_words(self, text: str) -> list[int]:
        """Encode words, each with a space before it.

        A word then has the same ids at the start of a text and inside it. Markers in the text are
        left out.
        """
        spaced = [f" {word}" for word in without_markers(text).split()]
        return self.encode("".join(spaced))

    def encode_end_of_speech(self) -> list[int]:
        """Encode the end of speech, after which the model predicts the turn state."""
        return self.encode(END_OF_SPEECH)

    def prompt_after_speech(self, turn_state: TurnState) -> list[int]:
        """Encode the prompt between speech and response: end of speech, turn state, assistant."""
        end_of_turn = f"{END_OF_SPEECH}{TURN_STATE_MARKERS[turn_state]}"
        return self.encode(f"{end_of_turn}{self._turns.after}")

    def encode_response(self, text: str) -> list[int]:
        """Encode a response: its words and the end of text."""
        return [*self.encode_words(text), self.eos_id]


def _end_of_text(text: str) -> str:
    """Return the token that the JSON of a tokenizer appends to a text; `END_OF_TEXT` if none."""
    processor = json.loads(text)["post_processor"]
    if processor is None or processor["type"] != "TemplateProcessing":
        return END_OF_TEXT
    last = processor["single"][-1]
    if "SpecialToken" not in last:
        return END_OF_TEXT
    return last["SpecialToken"]["id"]
