"""Registry of encoder mixers, by `encoder.mixer`."""

MIXERS = dict.fromkeys(("mamba", "attention", "transformer"))
