"""The tokenizer, the normaliser and error rates."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from duplexmamba.text.metrics import error_rates
from duplexmamba.text.tokenizer import TURN_STATE_MARKERS, Tokenizer, normalise


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([" what is seven plus five", " twelve", " the capital of france"] * 9)


@pytest.mark.parametrize("text", ["what is seven", "naïve Füße 你好", "emoji 🎧 and\ttabs", ""])
def test_any_text_is_restored(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text.strip()


def test_a_known_word_is_one_id_at_any_position(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_words("seven") == tokenizer.encode_words("plus seven")[-1:]


def test_markers_are_single_ids_and_not_decoded(tokenizer: Tokenizer) -> None:
    assert len({*tokenizer.turn_state_ids.values(), tokenizer.eos_id}) == 4
    ids = tokenizer.prompt_after_speech("response")
    assert tokenizer.turn_state_ids["response"] == ids[-2] and tokenizer.decode(ids) == ""
    assert set(TURN_STATE_MARKERS) == {"response", "incomplete", "ignore"}


def test_json_restores_the_tokenizer(tokenizer: Tokenizer) -> None:
    again = Tokenizer.from_json(tokenizer.to_json())
    assert (
        again.encode("what is <|speech|>") == tokenizer.encode("what is <|speech|>")
        and again.vocab_size == tokenizer.vocab_size
    )


def test_missing_source_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="tokenizer.source"):
        Tokenizer.load(str(tmp_path))


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("Don't  STOP!", "don't stop"),
        ("what’s “this”?", "what's this"),
        ("'quoted' rock 'n' roll", "quoted rock n roll"),
        ("Ünïcode — dash", "ünïcode dash"),
        ("3.5 km/h", "3 5 km h"),
        ("...", ""),
    ],
)
def test_normalise(raw: str, plain: str) -> None:
    assert normalise(raw) == plain


def test_error_rates_count_words_over_the_whole_set() -> None:
    assert error_rates(["a b c", "D!"], ["a x c", "d"]) == {
        "wer": 0.25,
        "cer": pytest.approx(1 / 6),
    }
    with pytest.raises(ValueError, match="nothing to score"):
        error_rates([" "], ["x"])


def test_the_end_of_text_is_that_of_the_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    backend = BackendTokenizer.from_str(tokenizer.to_json())
    backend.add_special_tokens(["<|im_end|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    fast.save_pretrained(tmp_path)
    loaded = Tokenizer.load(str(tmp_path))
    assert loaded.eos_id == backend.token_to_id("<|im_end|>")
    assert loaded.encode_response("yes")[-1] == loaded.eos_id
    assert loaded.encode("yes") == tokenizer.encode("yes")
    again = Tokenizer.from_json(loaded.to_json())
    assert (again.eos_id, again.vocab_size) == (loaded.eos_id, loaded.vocab_size)
    assert tokenizer.eos_id == backend.token_to_id("<|endoftext|>") != loaded.eos_id


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path: Path) -> None:
    backend = BackendTokenizer(models.BPE({"a": 0, "b": 1}, []))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"names no other token that ends a text.*eos_token"):
        Tokenizer.load(str(tmp_path))
