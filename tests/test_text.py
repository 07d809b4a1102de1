"""What stage lm reads: texts and the answers wanted, words at the pace of speech."""

import itertools
from collections import Counter

from configs.loading import override
from configs.schema import Config
from datamodules.data import Corpora, QAPairs, TextData
from duplexmamba.text.tokenizer import SILENCE, Tokenizer
from lightning_modules.lm import speech_like

TEXT = "what is the capital of france"


class Answered:
    """A corpus whose every item has an answer."""

    def qa_pair(self, index: int) -> tuple[str, str]:
        return TEXT, f"answer {index}"


def test_a_share_of_the_answers_is_wanted_and_always_the_same() -> None:
    exchanges = QAPairs(Answered(), 0.75, seed=1)
    items = [exchanges[i] for i in range(2000)]
    assert (
        items
        == [exchanges[i] for i in range(2000)]
        != [QAPairs(Answered(), 0.75, seed=2)[i] for i in range(2000)]
    )
    assert {answer for _, answer in items} <= {"", *(f"answer {i}" for i in range(2000))}
    assert abs(sum(bool(answer) for _, answer in items) / 2000 - 0.75) < 0.03
    assert all(
        QAPairs(Answered(), share, 1)[7] == (TEXT, wanted)
        for share, wanted in [(1, "answer 7"), (0, "")]
    )
    assert {exchanges.length(i) for i in range(100, 200)} == {
        len(TEXT) + len("answer 100")
    }  # wanted or not


def test_texts_of_a_batch_are_of_like_length_and_to_be_answered_or_transcribed(
    config: Config,
) -> None:
    config = override(
        config, ["data.num_workers=0", "data.batch_texts=8", "stage.answer_share=0.5"]
    )
    corpora = Corpora(config)
    loader = TextData(config, corpora).train_dataloader()
    spreads, wanted = [], []
    for positions in itertools.islice(loader.batch_sampler, 20):
        lengths = [sum(map(len, corpora.stream.qa_pair(i))) for i in positions]
        spreads.append(max(lengths) - min(lengths))
        wanted.append(sum(bool(loader.dataset[i][1]) for i in positions))
    assert sorted(spreads)[10] <= 4
    assert sum(0 < count < 8 for count in wanted) >= 18


def test_some_texts_hesitate() -> None:
    tokens = Tokenizer.train([TEXT])
    [silence] = tokens.encode(SILENCE)
    longest = []
    for _ in range(600):
        ids = speech_like(TEXT, tokens, 1.0)
        said = [i for i, token in enumerate(ids) if token != silence]
        longest.append(max(later - i - 1 for i, later in itertools.pairwise(said)))
    assert max(longest) <= 12
    assert abs(sum(run > 2 for run in longest) / 600 - 0.2) < 0.06


def test_words_at_the_pace_of_speech() -> None:
    tokens = Tokenizer.train([TEXT])
    [silence] = tokens.encode(SILENCE)
    counts: Counter[int] = Counter()
    for _ in range(600):
        ids = speech_like(TEXT, tokens, 1.0)
        assert [i for i in ids if i != silence] == tokens.encode_words(TEXT)
        [place] = [
            i for i in range(len(ids)) if ids[: i + 1][-1] in tokens.encode_words("capital") and i
        ]
        behind = 0
        while ids[place + behind + 1] == silence:
            behind += 1
        counts[behind] += 1
    assert all(abs(counts[n] / 600 - share) < 0.08 for n, share in enumerate([0.5, 0.35, 0.15]))
    assert speech_like(TEXT, tokens, 0.0) == tokens.encode_words(TEXT)
    assert speech_like("capital", tokens, 1.0).count(silence) <= 8, "nowhere to hesitate"
    assert set(speech_like("", tokens, 1.0)) <= {silence}
