"""Digests of the speech of synthesisers, for a process of its own: imports nothing heavy."""

import hashlib
import random
import sys

from datamodules.synthetic.voices import parse_families

SENTENCE = "please tell me how many minutes are in three hours"


def draw_voices(entry, split, num):
    """The first voices of an entry of data.voices."""
    [family] = parse_families("data.voices", {entry: 1})
    rng = random.Random(1)
    draw = family.synthesiser.draw_voice
    return [draw(rng, split, family.argument) for _ in range(num)]


def digest(entry, earlier_texts=()):
    """Digest of a sentence in a voice of train, after other texts."""
    [family] = parse_families("data.voices", {entry: 1})
    [voice] = draw_voices(entry, "train", 1)
    for text in earlier_texts:
        family.synthesiser.speak(text, voice)
    samples = family.synthesiser.speak(SENTENCE, voice).samples
    return hashlib.sha256(samples.tobytes()).hexdigest()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(digest(name, ("spell cat",)))
