"""Full-Duplex-Bench v1 (arXiv 2503.04721) and v1.5 (arXiv 2507.23159) for a model that answers in text.

The official scores need output audio and a transcript of it. There are two ways to them here: the
times at which words are emitted (`text_emission`), and replies that a synthesiser speaks from
their first emission on (`spoken`), as output.wav for the official scripts. `items` reads the
data, `rules` and `timing` hold the scoring rules, `backchannels` those of v1's back-channels,
`judged` asks a judge about behaviour and relevance. Written from the published rules; all times
are in seconds.
"""
