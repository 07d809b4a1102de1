"""Digests of the speech of synthesisers, for a process of its own: imports nothing heavy."""

import hashlib
import random
import sys

from datamodules.synthetic.voices import parse_families

SENTENCE = "please tell me how many minutes are in three hours"


def draw_voices(entry, split, num, seed=1):
    """The first voices of an entry of data.voices."""
    [family] = parse_families("data.voices", {entry: 1})
    rng = random.Random(seed)
    draw = family.synthesiser.draw_voice
    return [draw(rng, split, family.argument) for _ in range(num)]


def digests(entry, earlier_texts=()):
    """Digests of a sentence in a voice of train and one of test, after other texts."""
    [family] = parse_families("data.voices", {entry: 1})
    voices = [*draw_voices(entry, "train", 1), *draw_voices(entry, "test", 1)]
    for text in earlier_texts:
        family.synthesiser.speak(text, voices[0])
    found = []
    for voice in voices:
        samples = family.synthesiser.speak(SENTENCE, voice).samples
        found.append(hashlib.sha256(samples.tobytes()).hexdigest())
    return found


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(*digests(name, ("spell cat",)))
