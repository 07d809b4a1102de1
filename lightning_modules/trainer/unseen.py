"""Word error rates on synthesisers that nothing was trained on, and on people."""

import lightning as L

from configs.schema import Config
from datamodules.corpora import Corpora
from datamodules.corpus import Corpus
from datamodules.unseen import UnseenData, open_unseen
from duplexmamba.text.metrics import error_rates
from lightning_modules.stage import StageModule
from lightning_modules.trainer.exits import is_rank_zero

Pairs = list[tuple[str, str]]
"""(reference, hypothesis) of utterances."""


def score_unseen(
    config: Config, corpora: Corpora, trainer: L.Trainer, module: StageModule
) -> dict[str, float]:
    """Transcribe the unseen speech of a configuration, after the test.

    Args:
        config: names the speech in data.test_voices and data.test_people.
        corpora: its corpora.
        trainer: has tested the module.
        module: its results stay those of the test.

    Returns:
        `test/wer_voices`, `test/wer_voices/<family>`, `test/wer_people`,
        `test/wer_people/{words,sentences}`, as far as they are asked for; also logged.
    """
    unseen = open_unseen(config, corpora)
    if not unseen.notes:
        return {}
    if is_rank_zero():
        print("\n".join(unseen.notes), flush=True)
    results, loggers = module.results, trainer.loggers
    # Loggers would take the scores of each set for those of the test.
    trainer.loggers = []

    def transcribe(corpus: Corpus) -> Pairs:
        trainer.test(module, UnseenData(config, corpora, corpus), verbose=False)
        return module.scored

    scores = {}
    if unseen.voices:
        pairs = {name: transcribe(corpus) for name, corpus in unseen.voices.items()}
        scores["test/wer_voices"] = _word_error_rate(sum(pairs.values(), []))
        for name, pairs_of_family in pairs.items():
            scores[f"test/wer_voices/{name}"] = _word_error_rate(pairs_of_family)
    if unseen.people is not None:
        scores |= _scores_of_people(transcribe(unseen.people))
    module.results, trainer.loggers = results, loggers
    for logger in loggers:
        logger.log_metrics(scores, trainer.global_step)
    return scores


def _scores_of_people(pairs: Pairs) -> dict[str, float]:
    """The error rate of all utterances; and, where there are both, of single words and of others,
    whose difficulties differ: a single word has no context."""
    scores = {"test/wer_people": _word_error_rate(pairs)}
    words = [pair for pair in pairs if len(pair[0].split()) == 1]
    sentences = [pair for pair in pairs if len(pair[0].split()) != 1]
    if words and sentences:
        scores["test/wer_people/words"] = _word_error_rate(words)
        scores["test/wer_people/sentences"] = _word_error_rate(sentences)
    return scores


def _word_error_rate(pairs: Pairs) -> float:
    references, hypotheses = zip(*pairs, strict=True)
    return error_rates(references, hypotheses)["wer"]
