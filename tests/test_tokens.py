"""Text to ids and back."""

import pytest

from duplexmamba.text.metrics import error_rates
from duplexmamba.text.tokenizer import TURN_STATE_MARKERS, Tokenizer, normalise


@pytest.fixture(scope="module")
def tokens() -> Tokenizer:
    return Tokenizer.train([" what is seven plus five", " twelve", " the capital of france"] * 9)


@pytest.mark.parametrize("text", ["what is seven", "naïve Füße 你好", "emoji 🎧 and\ttabs", ""])
def test_any_text_survives(tokens: Tokenizer, text: str) -> None:
    assert tokens.decode(tokens.encode(text)) == text.strip()


def test_a_known_word_is_one_id_wherever_it_stands(tokens: Tokenizer) -> None:
    assert tokens.encode_words("seven") == tokens.encode_words("plus seven")[-1:]


def test_markers_are_single_ids_and_never_shown(tokens: Tokenizer) -> None:
    assert len({*tokens.turn_state_ids.values(), tokens.eos_id}) == 4
    ids = tokens.prompt_after_speech("response")
    assert tokens.turn_state_ids["response"] == ids[-2] and tokens.decode(ids) == ""
    assert set(TURN_STATE_MARKERS) == {"response", "incomplete", "ignore"}


def test_json_keeps_everything(tokens: Tokenizer) -> None:
    again = Tokenizer.from_json(tokens.to_json())
    assert (
        again.encode("what is <|speech|>") == tokens.encode("what is <|speech|>")
        and again.size == tokens.vocab_size
    )


def test_a_source_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="tokenizer.source"):
        Tokenizer.load(str(tmp_path))


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("Don't  STOP!", "don't stop"), ("what’s “this”?", "what's this"),
        ("'quoted' rock 'n' roll", "quoted rock n roll"),
        ("Ünïcode — dash", "ünïcode dash"), ("3.5 km/h", "3 5 km h"), ("...", ""),
    ],
)  # fmt: skip
def test_normalise(raw: str, plain: str) -> None:
    assert normalise(raw) == plain


def test_error_rates_count_words_over_the_whole_set() -> None:
    assert error_rates(["a b c", "D!"], ["a x c", "d"]) == {
        "wer": 0.25,
        "cer": pytest.approx(1 / 6),
    }
    with pytest.raises(ValueError, match="nothing to score"):
        error_rates([" "], ["x"])
