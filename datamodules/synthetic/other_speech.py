"""Text of speech that is not meant for the model: sentences to other people, and back-channels.

People tell each other news, and address orders and questions to a person whom they name first.
A sentence is a pattern whose slots are filled with words that also occur in questions to the model,
so that a single word does not show whom it is for: only the whole sentence does.
"""

import itertools
import random
import string
from collections.abc import Iterator

from datamodules.synthetic.grammar import DAYS, ITEMS, MUSIC, ROOMS, QAPair, Split, split_of_text


def _options(words: str) -> list[str]:
    return words.split("|")


SLOTS: dict[str, list[str]] = {
    "name": _options("john|mary|peter|anna|tom|lucy|david|emma"),
    "who": _options(
        "i|she|he|we|they|my brother|my sister|my mother|our teacher|the doctor|john|mary|peter|"
        "anna"
    ),
    "whom": _options("him|her|them|my father|my friends|the children|the neighbours|tom|lucy"),
    "put": _options("put|left|found|forgot|saw|dropped|hid"),
    "thing": _options(
        "the red box|the green cup|my coat|her hat|his book|the big ball|the old lamp|"
        "the umbrella|the white shoes|the keys|your letter|the yellow bag"
    ),
    "place": [
        *_options("on the table|under the bed|by the door|in the car|on the bus"),
        *(f"in the {room}" for room in ROOMS),
    ],
    "when": [
        *_options("yesterday|last night|this morning|last week|after dinner"),
        *(f"on {day}" for day in DAYS),
    ],
    "told": _options("told|wrote to|called"),
    "news": _options(
        "we would be late for dinner|the bus was late|it was cold in the office|"
        "the film was too long|the meeting is on friday|the train leaves at seven|"
        "there was no milk|the dog was in the garden|they were not at home|"
        "the shop closes at nine|the car was too small|it would rain in the morning"
    ),
    "could": _options("could you|can you|would you|please|you should|don't forget to"),
    "help": _options(
        "bring me my coat|come here for a minute|help me with the box|wait for me by the door|"
        "close the window|feed the cat|wash the cups|hold the bag for me|give her the keys|"
        "take the dog out|come to dinner|talk to your mother"
    ),
    "did": _options(
        "did you see|where did you put|have you got|who took|i think you forgot|i can't find|"
        "do you need"
    ),
    "opinion": _options("i think|she said|he told me|they say|you know|well|i thought"),
    "it": _options(
        "the film|the party|the soup|the train|the hotel|the concert|the shop|the game|"
        "the music|the new office"
    ),
    "was": _options(
        "was very good|was too expensive|was cold|was better than last time|was late|"
        "was full of people|was boring"
    ),
    "bought": _options("bought|made|found|brought|wanted"),
    "item": ITEMS,
    "liked": _options("liked|never liked|played|listened to"),
    "music": MUSIC,
    "see": _options(
        "see you|i will call you|let's meet|we can talk|i will be there|i will be home"
    ),
    "later": [
        *_options("tomorrow|tonight|after lunch|in the evening|at eight"),
        *(f"on {day}" for day in DAYS),
    ],
    "bye": _options("mum|dad|my dear|then|for sure|i promise"),
}
# Orders and questions name a person first, which distinguishes them from those to the model.
PATTERNS = [
    "{who} {put} {thing} {place} {when}",
    "{who} {told} {whom} and said {news}",
    "{who} told {whom} that {news}",
    "{name} {could} {help}",
    "{name} {did} {thing}",
    "{opinion} {it} {was} {when}",
    "{who} {bought} some {item} for {whom} {when}",
    "{who} {liked} {music} music {when}",
    "{see} {later} {bye}",
]
BACKCHANNELS = _options("mhm|mm hmm|uh huh|okay|right|yeah|i see|sure|aha")
"""Short words of a listener: too few to hold any out for evaluation."""


def draw(rng: random.Random, split: Split) -> QAPair:
    """Draw a sentence of one split, without an answer.

    Every word of the valid and test sentences also occurs in train.
    """
    while True:
        pattern = rng.choice(PATTERNS)
        words = {}
        for slot in slots_of(pattern):
            words[slot] = rng.choice(SLOTS[slot])
        text = pattern.format(**words)
        # Sentences are held out by the same hash as those of `grammar`.
        if split_of_text(text) == split:
            return QAPair(text, "", "talking_to_other")


def draw_backchannel(rng: random.Random, split: Split) -> QAPair:
    """Draw a back-channel; every split has the same ones."""
    return QAPair(rng.choice(BACKCHANNELS), "", "backchannel")


def sentences() -> Iterator[str]:
    """Iterate over every sentence of all splits, without back-channels."""
    for pattern in PATTERNS:
        slots = slots_of(pattern)
        # One list of words per slot; their product has every sentence of the pattern.
        options = [SLOTS[slot] for slot in slots]
        for words in itertools.product(*options):
            yield pattern.format(**dict(zip(slots, words, strict=True)))


def slots_of(pattern: str) -> list[str]:
    """Return the names of the slots of a pattern, in their order."""
    slots = []
    # `parse` yields (literal, field, format, conversion); the field is None after the last one.
    for _, slot, _, _ in string.Formatter().parse(pattern):
        if slot:
            slots.append(slot)
    return slots
