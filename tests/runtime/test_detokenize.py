"""Streaming text: the pieces joined are the text, and no piece ends in half a character."""

from hypothesis import given, settings
from hypothesis import strategies as st

from purekv_cli.runtime.detokenize import Detokenizer
from tests.runtime.adapter import byte_tokenizer

TOKENIZER = byte_tokenizer(extra=("Ġword", "Ġ", "é"))


def stream(ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(TOKENIZER)
    return [*(detokenizer.push(token) for token in ids), detokenizer.finish()]


def whole(ids: list[int]) -> str:
    return TOKENIZER.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@settings(max_examples=200)
@given(st.text(min_size=1))
def test_text_comes_through_unbroken(text: str) -> None:
    ids = TOKENIZER.encode(text)
    pieces = stream(ids)
    assert "".join(pieces) == whole(ids) == text
    if "�" not in text:
        assert not any("�" in piece for piece in pieces)


@settings(max_examples=200)
@given(st.lists(st.integers(0, len(TOKENIZER) - 1)))
def test_any_tokens_join_to_their_text(ids: list[int]) -> None:
    assert "".join(stream(ids)) == whole(ids)


def test_a_character_of_four_tokens_comes_at_once() -> None:
    ids = TOKENIZER.encode("🎬")
    assert len(ids) == 4
    assert stream(ids) == ["", "", "", "🎬", ""]
