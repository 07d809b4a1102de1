"""Tokenizers of instruct models: speech stands in the user's turn of their chat template."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer as BackendTokenizer
from transformers import PreTrainedTokenizerFast

from duplexmamba.text.tokenizer import Tokenizer

CHATML = """{{ bos_token }}{% if messages[0]['role'] != 'system' %}<|im_start|>system
Be brief.<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] | trim }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""
"""ChatML as Qwen and SmolLM write it, with a system prompt and an empty thought."""
SPECIALS = ["<s>", "<|im_start|>", "<|im_end|>"]


def save(folder: Path, template: str | None, eos_token: str = "<|im_end|>") -> BackendTokenizer:
    """Save a tokenizer of transformers, and return that of the library tokenizers within it."""
    texts = ["be brief answer the question user assistant system think speech"] * 3
    backend = BackendTokenizer.from_str(Tokenizer.train(texts).to_json())
    backend.add_special_tokens(SPECIALS)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=eos_token, bos_token="<s>", chat_template=template
    )
    fast.save_pretrained(folder)
    return backend


def shown(backend: BackendTokenizer, ids: list[int]) -> str:
    """Ids as text, special tokens included."""
    return backend.decode(ids, skip_special_tokens=False)


def test_speech_stands_in_the_turn_of_the_user(tmp_path: Path) -> None:
    backend = save(tmp_path, CHATML)
    tokenizer = Tokenizer.load(str(tmp_path))
    before = shown(backend, tokenizer.prompt_before_speech("answer the question"))
    assert before == (
        "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
        "answer the question<|speech|>"
    )
    after = tokenizer.prompt_after_speech("response")
    assert shown(backend, after) == (
        "<|/speech|><|response|><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    # a session reads the end of speech first, and then the rest
    end = tokenizer.encode_end_of_speech()
    assert after[: len(end)] == end
    assert after[len(end)] == tokenizer.turn_state_ids["response"]
    response = tokenizer.encode_response("the question")
    assert shown(backend, response) == " the question<|im_end|>"
    following = tokenizer.prompt_before_next_speech("answer the question")
    assert shown(backend, following) == "\n<|im_start|>user\nanswer the question<|speech|>"
    assert [*backend.encode("<s>").ids] == tokenizer.prompt_before_speech("")[:1]


def test_a_conversation_reads_as_the_template_renders_it(tmp_path: Path) -> None:
    """What the parts are joined to, markers left out, is the template's own text."""
    template = CHATML.replace("<think>\n\n</think>\n\n", "")
    backend = save(tmp_path, template)
    tokenizer = Tokenizer.load(str(tmp_path))
    parts = [
        *tokenizer.prompt_before_speech("question"),
        *tokenizer.prompt_after_speech("response"),
        *tokenizer.encode_response("answer"),
        *tokenizer.prompt_before_next_speech("question"),
        *tokenizer.prompt_after_speech("response"),
    ]
    text = shown(backend, parts)
    for marker in ("<|speech|>", "<|/speech|>", "<|response|>"):
        text = text.replace(marker, "")
    rendered = PreTrainedTokenizerFast.from_pretrained(tmp_path).apply_chat_template(
        [
            {"role": "user", "content": "question"},
            {"role": "assistant", "content": "answer"},
            {"role": "user", "content": "question"},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text.replace("\n answer", "\nanswer") == rendered


def test_the_end_of_a_response_is_that_of_the_template(tmp_path: Path) -> None:
    """Base models name the end of a text as eos_token, and end turns by another token."""
    backend = save(tmp_path, CHATML, eos_token="<|endoftext|>")
    tokenizer = Tokenizer.load(str(tmp_path))
    assert tokenizer.eos_id == backend.token_to_id("<|im_end|>")
    plain = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"
    backend = save(tmp_path, plain, eos_token="<|endoftext|>")
    tokenizer = Tokenizer.load(str(tmp_path))
    assert tokenizer.eos_id == backend.token_to_id("<|endoftext|>")
    assert shown(backend, tokenizer.prompt_before_next_speech("so")) == "[user]so<|speech|>"


def test_a_checkpoint_keeps_the_template(tmp_path: Path) -> None:
    save(tmp_path, CHATML)
    tokenizer = Tokenizer.load(str(tmp_path))
    again = Tokenizer.from_json(tokenizer.to_json())
    assert again.to_json() == tokenizer.to_json()
    assert (again.eos_id, again.vocab_size) == (tokenizer.eos_id, tokenizer.vocab_size)
    for name in ("prompt_before_speech", "prompt_before_next_speech"):
        assert getattr(again, name)("answer") == getattr(tokenizer, name)("answer")
    assert again.prompt_after_speech("ignore") == tokenizer.prompt_after_speech("ignore")


def test_without_a_template_every_turn_begins_with_the_marker(tmp_path: Path) -> None:
    save(tmp_path, None)
    tokenizer = Tokenizer.load(str(tmp_path))
    assert tokenizer.prompt_before_speech("be") == tokenizer.prompt_before_next_speech("be")
    assert tokenizer.prompt_before_speech("be") == tokenizer.encode("<|user|>be<|speech|>")
    assert "chat_template" not in tokenizer.to_json()


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('only two roles') }}",
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}",
        "{{ messages[0",
    ],
)
def test_a_template_without_a_plain_conversation_is_refused(template: str, tmp_path: Path) -> None:
    save(tmp_path, template)
    with pytest.raises(ValueError, match=r"tokenizer.source=.*chat template.*remove chat_template"):
        Tokenizer.load(str(tmp_path))
