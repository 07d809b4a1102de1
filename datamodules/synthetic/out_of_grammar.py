"""Questions and orders that the model cannot answer, because `grammar` does not contain them.

Some are about other things, some are near misses of the grammar ("what is the capital of brazil"),
some sound like another language, and some are random words of the grammar. All are addressed to the
model, and the answer says that it did not understand, so that it claims nothing that it does not
know and no action that nobody asked for.

A sentence is a pattern whose slots are filled, as in `other_speech`. No sentence contains the
content of a question or an order of the grammar.
"""

import itertools
import random
from collections.abc import Iterator, Sequence

from datamodules.synthetic.grammar import (
    DAYS,
    FRAMES,
    MAX_WORDS,
    ROOMS,
    QAPair,
    Split,
    contains_core,
    split_of_text,
    vocabulary,
)
from datamodules.synthetic.other_speech import slots_of

ANSWER = "sorry i did not understand"
"""The answer to all of them."""
KIND = "out_of_grammar"
"""Value of `QAPair.kind`, and the kind of their turns in dialogues."""
RANDOM_WORDS_SHARE = 0.08
"""Share of the sentences that are random words of the grammar."""
NUM_RANDOM_WORDS = (3, 7)
"""Smallest and largest number of these words."""


def _options(words: str) -> list[str]:
    return words.split("|")


SLOTS: dict[str, list[str]] = {
    # Frames as in the grammar, so that they do not show whether the rest belongs to it.
    "ask": _options(
        "what is|what's|tell me|please tell me|can you tell me|do you know|i want to know|"
        "okay what is|so what is"
    ),
    "what": _options("what is|what's|so what is|okay what is|do you know what is"),
    "hey": _options("|so|okay|hey|well|tell me|excuse me|i have a question"),
    "do": _options("|please|can you|could you|would you|okay|hey|i want you to|now please"),
    "tail": _options("|please|thank you|for me|now"),
    "city": _options(
        "new york|london|paris|chicago|boston|sydney|moscow|seattle|dallas|barcelona|munich|dublin"
    ),
    "time": [
        *_options("today|tomorrow|tonight|this weekend|next week|right now|in the afternoon"),
        *(f"on {day}" for day in DAYS),
    ],
    "weather": _options("rain|snow|be sunny|be windy|get colder|freeze|be foggy|storm"),
    "fact": _options(
        "the first president|the last emperor|the best singer|the fastest runner|"
        "the mayor of the city|the author of that novel|the king of england|"
        "the inventor of the telephone|the richest person on earth|the coach of the team"
    ),
    "created": _options(
        "wrote that song|painted the ceiling|invented the engine|discovered america|"
        "won the match|directed the movie|built the bridge|founded the company|"
        "stole the diamonds|designed the tower"
    ),
    "happened": _options(
        "the war end|the wall fall|the titanic sink|the museum open|the next flight leave|"
        "the season begin|people land on the moon|the store close|dinosaurs live|the bank open"
    ),
    "reason": _options(
        "is the ocean salty|do leaves change|do cats purr|do people dream|is my internet slow|"
        "do planes fly|does ice float|do we yawn|is traffic so heavy|are prices rising"
    ),
    "skill": _options(
        "fix a flat tyre|tie a knot|boil an egg|learn guitar|lose weight|remove a stain|"
        "cook spaghetti|plant tomatoes|write a poem|reset my password|iron a shirt|draw a dragon|"
        "pay my taxes|change a diaper|train a puppy"
    ),
    "spot": _options(
        "the nearest pharmacy|the train station|a cheap restaurant|my phone|the post office|"
        "a petrol station|the swimming pool|the closest hospital|my wallet|the library|"
        "the airport|gate twelve"
    ),
    "measure": _options(
        "how tall is|how old is|how heavy is|how far away is|how deep is|how expensive is"
    ),
    "measured": _options(
        "mount everest|the eiffel tower|the pacific|a blue whale|jupiter|the queen|"
        "an aeroplane ticket|the golden gate bridge|the amazon river|a hippopotamus"
    ),
    "topic": _options(
        "football|politics|quantum physics|vegetables|the stock market|philosophy|volcanoes|"
        "ancient rome|robots|space travel|chess|fashion|astronomy|gardening"
    ),
    "opinion": _options(
        "what do you think about|can you explain|have you heard about|do you like|"
        "what's the latest news on|teach me something about"
    ),
    "open": _options("open|close|lock|unlock|paint|clean|check|repair"),
    "openable": _options(
        "garage door|front door|window|curtains|blinds|gate|fridge|safe|roof|trunk|mailbox"
    ),
    "person": _options(
        "my boss|grandma|doctor smith|uncle bob|my wife|my husband|the landlord|sarah|michael|"
        "jennifer|the plumber|my lawyer|the school"
    ),
    "contact": _options("call|phone|text|email|send a message to|ring|write a letter to"),
    "order": _options("order|buy|reserve|book|find|deliver|recommend|look for|cancel|return|track"),
    "goods": _options(
        "a large pizza|two tickets|a taxi|a table for four|a hotel in venice|new headphones|"
        "a haircut|flowers|a birthday present|my parcel|my subscription|some sushi|a rental car|"
        "cough medicine|my dentist appointment|the meeting with finance"
    ),
    "media": _options(
        "the latest podcast|my favourite album|a bedtime story|the football highlights|"
        "an audio book|that video again|my holiday pictures|the morning headlines|a funny movie|"
        "christmas carols"
    ),
    "show": _options("play|show me|start|skip|download|record|share|delete|stream"),
    "chore": _options(
        "remind me to water the plants|read my messages|take a note|translate this sentence|"
        "make a coffee|feed the hamster|do my homework|tell me a joke|sing a song|"
        "guess my weight|solve this equation|scan the document|print the report|"
        "connect to bluetooth|restart the router|update the software|take a picture|"
        "turn the volume up|make it louder|lower the brightness|calculate my mortgage|"
        "vacuum the carpet|hide my emails|save the file|clear my calendar|mute the microphone|"
        "wake up my brother|cancel the timer|snooze the alarm|empty the dishwasher"
    ),
    # Near misses: what the grammar asks about, with other content.
    "land": _options(
        "brazil|sweden|portugal|turkey|kenya|mexico|argentina|finland|thailand|vietnam|belgium|"
        "hungary|denmark|nigeria|iceland|morocco|australia|texas|switzerland|scotland"
    ),
    "machine": _options(
        "dishwasher|oven|kettle|printer|camera|vacuum cleaner|coffee machine|laptop|humidifier|"
        "sprinkler|washing machine|projector|alarm system|christmas tree|microwave|fountain"
    ),
    "area": _options(
        "basement|garden|nursery|laundry room|balcony|living room|driveway|greenhouse|shed"
    ),
    "grocery": _options(
        "sugar|tomatoes|onions|potatoes|honey|shampoo|batteries|yoghurt|garlic|mushrooms|salmon|"
        "toothpaste|strawberries|lemonade|flour|vinegar"
    ),
    "style": _options("techno|heavy metal|reggae|soul|punk|latin|gospel|disco|hip hop|piano"),
    "adjective": _options(
        "love|friend|truth|heavy|clean|brave|famous|polite|generous|expensive|winter|freedom"
    ),
    "coloured": _options(
        "the sea|a frog|my car|a tomato|gold|the queen's hat|a flamingo|an elephant|mars|"
        "the other door|copper"
    ),
    "creature": _options(
        "a frog|the fox|a wolf|a dolphin|an elephant|a penguin|a monkey|a crab|a kangaroo|"
        "an octopus|a giraffe|a squirrel"
    ),
    "trade": _options(
        "builds houses|paints walls|drives a lorry|sings in the opera house|mends shoes|"
        "sells newspapers|guards the palace|delivers parcels|makes violins|judges criminals"
    ),
    "word": _options(
        "elephant|umbrella|garden|mountain|yesterday|chocolate cake|necessary|wednesday|rhythm|"
        "my name|encyclopedia|neighbour|xylophone|banana bread"
    ),
    "noun": _options("knife|leaf|city|cactus|wolf|potato|ox|deer|berry|roof"),
    "verb": _options("swim|fly|sing|buy|think|drive|teach|break|forget|throw"),
    "hour": _options(
        "seven in the morning|noon|midnight|half past six|a quarter to nine|five o'clock|"
        "tomorrow evening|next thursday|my birthday|easter"
    ),
    "unit": _options(
        "ounces|pounds|inches|calories|gallons|feet|acres|watts|teaspoons|passengers|bones"
    ),
    "whole": _options(
        "a mile|a bathtub|a bowl of cereal|a stone|a football field|a litre|the human body|"
        "an orchestra|a submarine|a barrel"
    ),
    "room": list(ROOMS),
    "feature": _options("blue|warmer|dimmer|brighter|to twenty degrees|purple|cooler|to maximum"),
    "fixture": _options("lights|heating|thermostat|screen|speakers|air conditioning|ceiling"),
    # Sentences of other languages, spelt with a to z.
    "german": _options(
        "wo ist der bahnhof|wie spaet ist es jetzt|ich moechte ein stueck kuchen|"
        "kannst du mir helfen|was kostet das buch|mach bitte das fenster zu|wie heisst du denn|"
        "morgen fahren wir nach hause"
    ),
    "german_tail": _options("|bitte|mein freund|heute abend|danke|noch einmal"),
    "spanish": _options(
        "donde esta la playa|quiero un vaso de agua|que hora es ahora|como te llamas|"
        "abre la puerta|cuanto cuesta el billete|me gusta mucho la comida|vamos al mercado"
    ),
    "spanish_tail": _options("|por favor|amigo|esta noche|gracias|otra vez"),
    "french": _options(
        "ou est la gare|je voudrais du pain|quelle heure est il|comment allez vous|"
        "ouvrez la fenetre|combien coute ce livre|il fait tres beau|nous allons au cinema"
    ),
    "french_tail": _options("|s'il vous plait|mon ami|ce soir|merci|encore une fois"),
    "italian": _options(
        "dove si trova il mercato|vorrei un bicchiere di vino|come stai oggi|che cosa fai|"
        "accendi la luce|quanto costa il biglietto|andiamo alla spiaggia|chiudi la finestra"
    ),
    "italian_tail": _options("|per favore|amico mio|questa sera|grazie|ancora"),
}
PATTERNS = _options(
    # Questions about other things.
    "{what} the weather like {time} in {city}|"
    "{what} the weather like {time}|"
    "will it {weather} {time} in {city}|"
    "{hey} is it going to {weather} {time}|"
    "{hey} who was {fact}|"
    "{hey} who {created}|"
    "{hey} when did {happened}|"
    "{hey} when does {happened}|"
    "{hey} why {reason}|"
    "{hey} how do i {skill}|"
    "{hey} show me how to {skill}|"
    "{hey} where is {spot}|"
    "how do i get to {spot} from {city}|"
    "{measure} {measured} {tail}|"
    "{opinion} {topic}|"
    "what time is it in {city} {tail}|"
    "how many people live in {city}|"
    "how long does the flight from {city} take|"
    "{ask} the price of {goods}|"
    "{ask} the meaning of {adjective}|"
    "should i bring an umbrella {time}|"
    "what should i cook {time} with {grocery}|"
    "which team is playing {time}|"
    "are you able to {skill}|"
    # Orders of other things.
    "{do} {open} the {openable} {tail}|"
    "{do} {open} the {room} {openable}|"
    "{do} {contact} {person} {tail}|"
    "{do} {contact} {person} and say i am late|"
    "{do} {order} {goods} {tail}|"
    "{do} {order} {goods} {time}|"
    "{do} {show} {media} {tail}|"
    "{do} {chore} {tail}|"
    "{do} {chore} {time}|"
    "{do} remind me about {topic} {time}|"
    "{do} search the web for {topic}|"
    "{do} drive me to {spot}|"
    # Near misses of the grammar.
    "{ask} the capital of {land} {tail}|"
    "{ask} the population of {land}|"
    "{hey} which country is next to {land}|"
    "{do} turn on the {machine} in the {room}|"
    "{do} turn off the {machine} {tail}|"
    "{do} switch the {room} {machine} off|"
    "{do} turn on the lights in the {area}|"
    "{do} turn the {room} {fixture} {feature}|"
    "{do} switch off everything in the {room}|"
    "{do} add {grocery} to my shopping list {tail}|"
    "{do} remove {grocery} from my shopping list|"
    "{do} read my shopping list {time}|"
    "{do} play some {style} music {tail}|"
    "{do} play {style} songs in the {room}|"
    "{ask} the opposite of {adjective}|"
    "{hey} what colour is {coloured} {tail}|"
    "{hey} what does {creature} say {tail}|"
    "{hey} what does {creature} eat|"
    "{hey} how many teeth does {creature} have|"
    "{hey} who {trade} {tail}|"
    "{do} spell {word} {tail}|"
    "{hey} how do you pronounce {word}|"
    "{ask} the plural of {noun} {tail}|"
    "{ask} the past tense of {verb} {tail}|"
    "{do} set an alarm for {hour} {tail}|"
    "{do} wake me at {hour}|"
    "{do} set a reminder for {hour}|"
    "{hey} how many {unit} are in {whole}|"
    "{hey} which is heavier {measured} or {whole}|"
    "{hey} which month has {topic} day|"
    "{ask} the square root of the {noun}|"
    # Other languages.
    "{german} {german_tail}|"
    "{spanish} {spanish_tail}|"
    "{french} {french_tail}|"
    "{italian} {italian_tail}"
)
_LEADS = [lead for lead, _ in FRAMES["question"]]
_WORDS = vocabulary()


def draw(rng: random.Random, split: Split) -> QAPair:
    """Draw a sentence of one split; some patterns and words occur in test alone."""
    while True:
        if rng.random() < RANDOM_WORDS_SHARE:
            parts = [_random_words(rng)]
        else:
            parts = _draw_parts(rng)
        text = _join(parts[-1])
        if split_of(parts) == split and _is_allowed(text):
            return QAPair(text, ANSWER, KIND)


def sentences() -> Iterator[tuple[str, Split]]:
    """Iterate over every sentence and its split, without those of random words."""
    for pattern in PATTERNS:
        slots = slots_of(pattern)
        for options in itertools.product(*(SLOTS[slot] for slot in slots)):
            parts = _parts(pattern, slots, options)
            text = _join(parts[-1])
            if _is_allowed(text):
                yield text, split_of(parts)


def split_of(parts: Sequence[str]) -> Split:
    """Return the split of a sentence.

    Args:
        parts: its pattern, the content of its slots, and the sentence itself as the last one. If
            the hash of any of them belongs to test, so does the sentence.
    """
    # Not so for valid, which would take as many sentences again from training.
    splits = [split_of_text(part) for part in parts]
    if "test" in splits:
        return "test"
    return splits[-1]


def _is_allowed(text: str) -> bool:
    return len(text.split()) <= MAX_WORDS and not contains_core(text)


def _draw_parts(rng: random.Random) -> list[str]:
    pattern = rng.choice(PATTERNS)
    slots = slots_of(pattern)
    options = [rng.choice(SLOTS[slot]) for slot in slots]
    return _parts(pattern, slots, options)


def _parts(pattern: str, slots: Sequence[str], options: Sequence[str]) -> list[str]:
    """Pattern, content of its slots, and the sentence; see `split_of`."""
    text = _join(pattern.format(**dict(zip(slots, options, strict=True))))
    return [pattern, *options, text]


def _random_words(rng: random.Random) -> str:
    # Behind a frame, so that the beginning does not show that there is no sense in the rest.
    words = rng.sample(_WORDS, rng.randint(*NUM_RANDOM_WORDS))
    return _join(f"{rng.choice(_LEADS)} {' '.join(words)}")


def _join(text: str) -> str:
    """Remove the double spaces that empty slots leave."""
    return " ".join(text.split())
