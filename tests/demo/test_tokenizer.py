"""Any string survives the tokenizer, and the world's own words are single tokens."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from purekv_cli.demo import MODEL_DIR
from purekv_cli.demo.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS, SYSTEM_MESSAGE, VOCABULARY, load_tokenizer
from purekv_cli.demo.world import COLOURS, SHAPES

PLAIN = load_tokenizer(MODEL_DIR)
VIDEO_MESSAGE: dict[str, Any] = {
    "role": "user",
    "content": [{"type": "video"}, {"type": "text", "text": "what happens?"}],
}


@pytest.fixture(scope="module")
def wrapped() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    ids = PLAIN.encode(text, add_special_tokens=False).ids
    assert PLAIN.decode(ids, skip_special_tokens=False) == unicodedata.normalize("NFC", text)
    assert all(0 <= token < VOCABULARY for token in ids)


@given(st.lists(st.sampled_from([*SPECIAL_TOKENS, "red", " the circle", "\n", "é", "🙂", "<|im"])))
def test_special_tokens_between_text_come_back(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert PLAIN.decode(PLAIN.encode(text).ids, skip_special_tokens=False) == text


def test_both_loaders_give_the_same_ids(wrapped: PreTrainedTokenizerBase) -> None:
    for text in ("What happens?", "Ünïcode 🙂 42", f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n"):
        assert wrapped.encode(text, add_special_tokens=False) == PLAIN.encode(text, add_special_tokens=False).ids


def test_words_of_the_world_are_single_tokens() -> None:
    for word in (*COLOURS, *SHAPES, "number", "moves", "disappears", "blinks", "turns", "twice", "then"):
        assert len(PLAIN.encode(f" {word}", add_special_tokens=False).ids) == 1, word


def test_special_tokens_are_single_and_known(wrapped: PreTrainedTokenizerBase) -> None:
    for token in SPECIAL_TOKENS:
        assert PLAIN.encode(token, add_special_tokens=False).ids == [PLAIN.token_to_id(token)]
    assert wrapped.eos_token == "<|im_end|>"
    assert wrapped.pad_token == "<|endoftext|>"
    assert len(wrapped) == VOCABULARY


def test_the_chat_template_is_qwens(wrapped: PreTrainedTokenizerBase) -> None:
    assert (MODEL_DIR / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert wrapped.apply_chat_template([VIDEO_MESSAGE], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>what happens?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
