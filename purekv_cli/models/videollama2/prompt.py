"""What VideoLLaMA2 is told: the checkpoint's chat template around "<video>", a newline and the question.

Mistral and Mixtral also get the system message of the reference. A template that takes none gets it at the head of the
user's turn, as Llama 2 has it; a checkpoint without a template gets Mistral's or Qwen's. Text before and after the
video is encoded apart, as in the reference. Special tokens in a question are read as plain text.
"""

import re
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from purekv_cli.errors import ModelUnavailable
from purekv_cli.models.prompt import Talk

VIDEO = "<video>"
SYSTEM = (
    "<<SYS>>\nYou are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being "
    "safe.  Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal "
    "content. Please ensure that your responses are socially unbiased and positive in nature.\nIf a question does not "
    "make any sense, or is not factually coherent, explain why instead of answering something not correct. If you "
    "don't know the answer to a question, please don't share false information.\n<</SYS>>"
)
_QUESTION, _ANSWER, _LATER = "\ue000question\ue000", "\ue000answer\ue000", "\ue000later\ue000"
_MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}{% else %}{{ raise_exception('system') }}"
    "{% endif %}{% endfor %}"
)
_QWEN = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation of two turns, cut at the video, its questions and its answer."""

    tokenizer: PreTrainedTokenizerBase
    opening: str  # up to the video
    before: str  # from the video to the question
    closing: str  # after a question: end of the turn, opening of the answer
    between: str  # after a question that is already answered, up to its answer
    again: str  # after an answer: its end, the next user turn
    talk: Talk = ()  # turns about the video that come before any question

    @classmethod
    def read(cls, tokenizer: PreTrainedTokenizerBase, mistral: bool) -> "Prompt":
        """From the tokenizer's template.

        Args:
            mistral: whether the language model is Mistral or Mixtral, which get the system message.
        """
        template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
        template = template or (_MISTRAL if mistral else _QWEN)
        ask = f"{VIDEO}\n{_QUESTION}"
        talks = [[("user", ask)]]
        if mistral:
            talks = [[("system", SYSTEM), ("user", ask)], [("user", f"{SYSTEM}\n\n{ask}")]]
        for talk in talks:
            talk += [("assistant", _ANSWER), ("user", _LATER)]
            try:
                text = _rendered(tokenizer, template, talk)
            except TemplateError:  # it takes no system message
                continue
            if [text.count(mark) for mark in (VIDEO, _QUESTION, _ANSWER, _LATER)] != [1] * 4:
                continue
            opening, rest = text.split(VIDEO)
            before, rest = rest.split(_QUESTION)
            between, rest = rest.split(_ANSWER)
            again, closing = rest.split(_LATER)
            return cls(tokenizer, opening, before, closing, between, again)
        raise ModelUnavailable(
            "the chat template of the checkpoint does not show what it is told",
            "Take tokenizer_config.json from the model that it was made from.",
        )

    def head_ids(self) -> list[int]:
        """Everything before the video."""
        return self.tokenizer.encode(self.opening, add_special_tokens=False)

    def question_ids(self, question: str) -> list[int]:
        """Everything after the video: earlier turns, the question, the opening of the answer."""
        parts = [(self.before, True)]
        for asked, answered in self.talk:
            parts += [(asked, False), (self.between, True), (answered, False), (self.again, True)]
        return self._encode([*parts, (question, False), (self.closing, True)])

    def turn_ids(self, question: str) -> list[int]:
        """What follows an answer: its end, the next question and the opening of the next answer."""
        return self._encode([(self.again, True), (question, False), (self.closing, True)])

    def _encode(self, parts: list[tuple[str, bool]]) -> list[int]:
        """Ids of pieces of text, of which those marked True are the template's: only there special tokens count."""
        names = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        special = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        ids: list[int] = []
        plain = ""
        for text, ours in parts:
            for piece in re.split(f"({special})", text) if ours and special else [text]:
                if ours and piece in names:
                    ids += [*self._plain(plain), int(self.tokenizer.convert_tokens_to_ids(piece))]  # type: ignore[arg-type]
                    plain = ""
                else:
                    plain += piece
        return ids + self._plain(plain)

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) if text else []


def _rendered(tokenizer: PreTrainedTokenizerBase, template: str, talk: Talk) -> str:
    messages: Any = [{"role": role, "content": content} for role, content in talk]
    return str(
        tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
    )
