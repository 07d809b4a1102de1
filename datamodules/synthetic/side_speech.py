"""What people say to somebody else, as text: news of each other, and orders and questions to a person named first.

A sentence is a pattern whose slots are filled with words that questions use too, as far as they go: it is the whole
that tells for whom it is.
"""

import itertools
import random
import string
from collections.abc import Iterator

from datamodules.synthetic.grammar import DAYS, ITEMS, MUSIC, ROOMS, QAPair, Split, split_of_text


def _either(words: str) -> list[str]:
    return words.split("|")


SLOTS: dict[str, list[str]] = {
    "name": _either("john|mary|peter|anna|tom|lucy|david|emma"),
    "who": _either(
        "i|she|he|we|they|my brother|my sister|my mother|our teacher|the doctor|john|mary|peter|anna"
    ),
    "whom": _either("him|her|them|my father|my friends|the children|the neighbours|tom|lucy"),
    "put": _either("put|left|found|forgot|saw|dropped|hid"),
    "thing": _either(
        "the red box|the green cup|my coat|her hat|his book|the big ball|the old lamp|the umbrella|the white shoes|"
        "the keys|your letter|the yellow bag"
    ),
    "place": [
        *_either("on the table|under the bed|by the door|in the car|on the bus"),
        *(f"in the {r}" for r in ROOMS),
    ],
    "when": [
        *_either("yesterday|last night|this morning|last week|after dinner"),
        *(f"on {day}" for day in DAYS),
    ],
    "told": _either("told|wrote to|called"),
    "news": _either(
        "we would be late for dinner|the bus was late|it was cold in the office|the film was too long|"
        "the meeting is on friday|the train leaves at seven|there was no milk|the dog was in the garden|"
        "they were not at home|the shop closes at nine|the car was too small|it would rain in the morning"
    ),
    "could": _either("could you|can you|would you|please|you should|don't forget to"),
    "help": _either(
        "bring me my coat|come here for a minute|help me with the box|wait for me by the door|close the window|"
        "feed the cat|wash the cups|hold the bag for me|give her the keys|take the dog out|come to dinner|"
        "talk to your mother"
    ),
    "did": _either(
        "did you see|where did you put|have you got|who took|i think you forgot|i can't find|do you need"
    ),
    "opinion": _either("i think|she said|he told me|they say|you know|well|i thought"),
    "it": _either(
        "the film|the party|the soup|the train|the hotel|the concert|the shop|the game|the music|the new office"
    ),
    "was": _either(
        "was very good|was too expensive|was cold|was better than last time|was late|was full of people|was boring"
    ),
    "bought": _either("bought|made|found|brought|wanted"),
    "item": ITEMS,
    "liked": _either("liked|never liked|played|listened to"),
    "music": MUSIC,
    "see": _either("see you|i will call you|let's meet|we can talk|i will be there|i will be home"),
    "later": [
        *_either("tomorrow|tonight|after lunch|in the evening|at eight"),
        *(f"on {day}" for day in DAYS),
    ],
    "bye": _either("mum|dad|my dear|then|for sure|i promise"),
}
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
SPOKEN_BY_LISTENERS = _either("mhm|mm hmm|uh huh|okay|right|yeah|i see|sure|aha")
"""Back-channels: too few to hold any out."""


def draw(rng: random.Random, split: Split) -> QAPair:
    """A sentence of this split, without an answer. Every word of every split occurs in train."""
    while True:
        pattern = rng.choice(PATTERNS)
        text = pattern.format(**{slot: rng.choice(SLOTS[slot]) for slot in _slots(pattern)})
        if split_of_text(text) == split:
            return QAPair(text, "", "talking_to_other")


def draw_backchannel(rng: random.Random, split: Split) -> QAPair:
    """A listener's word, the same in every split."""
    return QAPair(rng.choice(SPOKEN_BY_LISTENERS), "", "backchannel")


def sentences() -> Iterator[str]:
    """Every sentence that can be drawn, of all splits."""
    for pattern in PATTERNS:
        slots = _slots(pattern)
        for words in itertools.product(*(SLOTS[slot] for slot in slots)):
            yield pattern.format(**dict(zip(slots, words, strict=True)))


def _slots(pattern: str) -> list[str]:
    return [slot for _, slot, _, _ in string.Formatter().parse(pattern) if slot]
