"""The pieces of a chat that stay the same whatever is asked: read once from a checkpoint's chat template.

The template is rendered with marks in the places of the questions and the answer and cut there. A question is encoded
apart from the special tokens around it, with special tokens in it read as plain text: nothing that a user types can
close a turn or pretend to be a video. Otherwise the ids are those of encoding the whole rendered conversation, because
tokenizers never merge across a special token and the plain text beside a question is encoded together with it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from purekv_cli.errors import ModelUnavailable
from purekv_cli.models.hub import read_json

Talk = Sequence[tuple[str, str]]  # questions and their answers

_FIRST, _ANSWER, _LATER = "\ue000first\ue000", "\ue000answer\ue000", "\ue000later\ue000"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A two-turn conversation, cut at its questions and its answer; and what was said before the next question."""

    tokenizer: PreTrainedTokenizerBase
    opening: str  # system message, user turn, up to the video
    before: str  # text between the video and the question
    closing: str  # after a question: end of the turn, opening of the answer
    between: str  # after a question that is answered already, up to its answer
    again: str  # after an answer: its end, the next user turn
    talk: Talk = ()  # turns about the video that come before any question
    template: str = ""  # that the rest was read from
    placeholder: str = ""  # what it writes for a video

    @classmethod
    def read(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        placeholder: str,
        after_video: str = "",
        template: str | None = None,
    ) -> "Prompt":
        """Take the first of the checkpoint's templates that shows a video: newer layouts keep it in a file of its own.

        Args:
            placeholder: what the template writes for a video.
            after_video: what the family's processor writes behind the video, before the template goes on.
            template: the library's, where it takes its own for videos; None: the checkpoint's.

        Raises:
            ModelUnavailable: there is none.
        """
        video: dict[str, Any] = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": _FIRST}]}
        later = {"role": "user", "content": [{"type": "text", "text": _LATER}]}
        answers: tuple[Any, ...] = (_ANSWER, [{"type": "text", "text": _ANSWER}])  # templates take one or the other
        templates = [template] if template else _templates(tokenizer, folder)
        for template, answer in product(templates, answers):
            talk: Any = [video, {"role": "assistant", "content": answer}, later]
            try:
                text = str(
                    tokenizer.apply_chat_template(
                        talk, chat_template=template, tokenize=False, add_generation_prompt=True
                    )
                )
            except (TypeError, TemplateError):  # made for plain text, or damaged
                continue
            order = [text.find(mark) for mark in (placeholder, _FIRST, _ANSWER, _LATER)]
            if -1 in order or order != sorted(order):
                continue
            head, rest = text.split(_FIRST)
            if head.count(placeholder) != 1:
                continue
            between, rest = rest.split(_ANSWER)
            again, closing = rest.split(_LATER)
            opening, before = head.split(placeholder)
            pieces = (opening, after_video + before, closing, between, again)
            return cls(tokenizer, *pieces, template=template, placeholder=placeholder)
        raise ModelUnavailable(
            f"{folder} has no chat template that shows a video",
            "Add the chat_template.json of the checkpoint it was made from.",
        )

    def head_ids(self, *videos: str) -> list[int]:
        """Everything up to and including the videos, which are written as these; what opens every text comes first.

        Raises:
            ModelUnavailable: the template does not show several.
        """
        openings = (self.opening,) if len(videos) == 1 else self._openings(len(videos))
        text = "".join(opening + video for opening, video in zip(openings, videos, strict=True))
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        begin = self.tokenizer.bos_token_id
        opened = self.tokenizer.encode("", add_special_tokens=True)[:1] == [begin] and ids[:1] != [begin]
        return [begin, *ids] if opened and begin is not None else ids  # type: ignore[list-item]

    def _openings(self, count: int) -> Sequence[str]:
        """What the template writes before each of several videos; with "Video 1: " if it can."""
        content = [*({"type": "video"} for _ in range(count)), {"type": "text", "text": _FIRST}]
        talk: Any = [{"role": "user", "content": content}]
        text = self.tokenizer.apply_chat_template(talk, chat_template=self.template, tokenize=False, add_vision_id=True)
        *openings, _ = str(text).partition(_FIRST)[0].split(self.placeholder)
        if len(openings) != count:
            raise ModelUnavailable(
                f"the chat template shows {len(openings)} of {count} videos", "Ask about one video at a time."
            )
        return openings

    def question_ids(self, question: str) -> list[int]:
        """What follows the video: earlier turns, the question and the opening of the answer."""
        parts = [self.before]
        for asked, answered in self.talk:
            parts += [asked, self.between, answered, self.again]
        return self._spoken([*parts, question, self.closing])

    def turn_ids(self, question: str) -> list[int]:
        """What follows an answer: its end, the next question and the opening of the next answer."""
        return self._spoken([self.again, question, self.closing])

    def _spoken(self, parts: Sequence[str]) -> list[int]:
        """Ids of text, in turn the template's and what was said: only in the template's special tokens count."""
        tokens = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        special = "|".join(map(re.escape, tokens))
        ids: list[int] = []
        plain = ""
        for number, text in enumerate(parts):
            pieces = [text] if number % 2 else re.split(f"({special})", text)
            plain += pieces[0]
            if len(pieces) > 1:
                rest = "" if number + 1 == len(parts) else pieces.pop()
                ids += [*self._inside(plain, split_special_tokens=True), *self._inside("".join(pieces[1:]))]
                plain = rest
        return ids + self._inside(plain, split_special_tokens=True)

    def _inside(self, text: str, **how: Any) -> list[int]:
        """Ids of text that something comes before: without the space that some tokenizers put in front of all text."""
        front = self.tokenizer.encode("\n", add_special_tokens=False)
        if not text or len(front) == 1:
            return self.tokenizer.encode(text, add_special_tokens=False, **how)
        return self.tokenizer.encode("\n" + text, add_special_tokens=False, **how)[len(front) :]


def _templates(tokenizer: PreTrainedTokenizerBase, folder: Path) -> list[str]:
    """Templates of a checkpoint: chat_template.jinja, chat_template.json, the tokenizer's own."""
    found: list[Any] = []
    if (jinja := folder / "chat_template.jinja").is_file():
        found.append(jinja.read_text(encoding="utf-8"))
    if (wrapped := folder / "chat_template.json").is_file():
        found.append(read_json(wrapped).get("chat_template"))
    found.append(tokenizer.chat_template)
    return [template for template in found if isinstance(template, str)]
