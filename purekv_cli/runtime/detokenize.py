"""Text from tokens as they come: a piece is handed out only once it can no longer change.

A character may span several tokens, and some tokenizers put the space of a word into its first token. Both are right
when the last tokens are always decoded together with those before them and only the difference is handed out, and
never while it ends in an unfinished character.
"""

from transformers import PreTrainedTokenizerBase

_UNFINISHED = "�"


class Detokenizer:
    """Feed token ids one by one; the pieces joined are the text of all tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # context: what `_shown` is decoded with
        self._shown = 0  # tokens whose text is out

    def _text(self, start: int, stop: int) -> str:
        return str(
            self._tokenizer.decode(self._ids[start:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def push(self, token: int) -> str:
        """The text that became certain with this token, often empty."""
        self._ids.append(token)
        piece = self._piece()
        if not piece or piece.endswith(_UNFINISHED):
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return piece

    def finish(self) -> str:
        """What was held back."""
        piece = self._piece()
        self._start, self._shown = self._shown, len(self._ids)
        return piece

    def _piece(self) -> str:
        known = self._text(self._start, self._shown)
        return self._text(self._start, len(self._ids))[len(known) :]
