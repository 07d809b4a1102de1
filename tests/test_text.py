"""Data of stage lm: texts, a share of them with answers, and words at the pace of speech."""

import itertools
from collections import Counter

from configs.loading import override
from configs.schema import Config
from datamodules.corpora import Corpora
from datamodules.data import QAPairs, TextData
from duplexmamba.text.tokenizer import SILENCE, Tokenizer
from lightning_modules.lm import speech_like

TEXT = "what is the capital of france"


class AnsweredCorpus:
    """A corpus in which every item has an answer."""

    def qa_pair(self, index: int) -> tuple[str, str]:
        return TEXT, f"answer {index}"


def test_a_fixed_share_of_items_has_answers() -> None:
    qa_pairs = QAPairs(AnsweredCorpus(), 0.75, seed=1)
    items = [qa_pairs[i] for i in range(2000)]
    assert (
        items
        == [qa_pairs[i] for i in range(2000)]
        != [QAPairs(AnsweredCorpus(), 0.75, seed=2)[i] for i in range(2000)]
    )
    assert {answer for _, answer in items} <= {"", *(f"answer {i}" for i in range(2000))}
    assert abs(sum(bool(answer) for _, answer in items) / 2000 - 0.75) < 0.03
    assert all(
        QAPairs(AnsweredCorpus(), share, 1)[7] == (TEXT, answer)
        for share, answer in [(1, "answer 7"), (0, "")]
    )
    # The length counts the answer even where the item is to be transcribed.
    lengths = {qa_pairs.length(i) for i in range(100, 200)}
    assert lengths == {len(TEXT) + len("answer 100")}


def test_batches_have_texts_of_similar_length_with_and_without_answers(
    config: Config,
) -> None:
    config = override(
        config, ["data.num_workers=0", "data.batch_texts=8", "stage.answer_share=0.5"]
    )
    corpora = Corpora(config)
    loader = TextData(config, corpora).train_dataloader()
    spreads, num_answers = [], []
    for positions in itertools.islice(loader.batch_sampler, 20):
        lengths = [sum(map(len, corpora.stream.qa_pair(i))) for i in positions]
        spreads.append(max(lengths) - min(lengths))
        num_answers.append(sum(bool(loader.dataset[i][1]) for i in positions))
    assert sorted(spreads)[10] <= 4
    assert sum(0 < count < 8 for count in num_answers) >= 18


def test_some_texts_have_hesitations() -> None:
    tokenizer = Tokenizer.train([TEXT])
    [silence] = tokenizer.encode(SILENCE)
    longest = []
    for _ in range(600):
        ids = speech_like(TEXT, tokenizer, 1.0)
        word_positions = [i for i, token in enumerate(ids) if token != silence]
        longest.append(max(later - i - 1 for i, later in itertools.pairwise(word_positions)))
    assert max(longest) <= 12
    assert abs(sum(run > 2 for run in longest) / 600 - 0.2) < 0.06


def test_words_at_the_pace_of_speech() -> None:
    tokenizer = Tokenizer.train([TEXT])
    [silence] = tokenizer.encode(SILENCE)
    counts: Counter[int] = Counter()
    for _ in range(600):
        ids = speech_like(TEXT, tokenizer, 1.0)
        assert [i for i in ids if i != silence] == tokenizer.encode_words(TEXT)
        [position] = [
            i
            for i in range(len(ids))
            if ids[: i + 1][-1] in tokenizer.encode_words("capital") and i
        ]
        num_silences = 0
        while ids[position + num_silences + 1] == silence:
            num_silences += 1
        counts[num_silences] += 1
    assert all(abs(counts[n] / 600 - share) < 0.08 for n, share in enumerate([0.5, 0.35, 0.15]))
    assert speech_like(TEXT, tokenizer, 0.0) == tokenizer.encode_words(TEXT)
    assert speech_like("capital", tokenizer, 1.0).count(silence) <= 8, (
        "a single word has no place for a hesitation"
    )
    assert set(speech_like("", tokenizer, 1.0)) <= {silence}
