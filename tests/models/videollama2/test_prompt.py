"""What the model is told, token for token: chunks of the rendered template, as the reference encodes them."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from purekv_cli.models.videollama2.config import VIDEO as INDEX
from purekv_cli.models.videollama2.prompt import SYSTEM, VIDEO, Prompt
from tests.models.videollama2.conftest import clip_of
from tests.models.videollama2.released import SPECIAL, tokenizer_of

SYSTEM_ROLE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}[INST] {{ m.content }}\n\n"
    "{% elif m.role == 'user' %}{% if loop.index0 > 1 %}[INST] {% endif %}{{ m.content }} [/INST]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)


def chunks(tokenizer: Any, text: str) -> list[int]:
    """The reference's rule: parts around the video tag encoded apart, its index between them."""
    before, after = text.split(VIDEO)
    ids: list[int] = tokenizer(before, add_special_tokens=False).input_ids
    return [*ids, INDEX, *tokenizer(after, add_special_tokens=False).input_ids]


def collapsed(inputs: Any) -> list[int]:
    ids = inputs.input_ids[0].tolist()
    start, stop = inputs.layout.before, inputs.layout.after
    assert set(ids[start:stop]) == {INDEX}
    return [*ids[:start], INDEX, *ids[stop:]]


@pytest.mark.parametrize("question", ["what happens?", "", " a\n", "你好 é"])
def test_the_prompt_is_the_templates(adapter: Any, question: str) -> None:
    tokenizer = adapter.tokenizer
    content = f"{VIDEO}\n{question}"
    if adapter.model.config.text_config.model_type == "mistral":  # its template takes no system message
        text = f"<s>[INST] {SYSTEM}\n\n{content} [/INST]"
    else:
        text = f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{content}<|im_end|>\n"
        text += "<|im_start|>assistant\n"
    assert collapsed(adapter.prepare(clip_of(4), question)) == chunks(tokenizer, text)


@pytest.mark.parametrize(
    ("kind", "template"),
    [("mistral", "own"), ("mistral", None), ("mistral", SYSTEM_ROLE), ("qwen2", "own"), ("qwen2", None)],
    ids=["Mistral's", "none, Mistral", "with a system role", "Qwen's", "none, Qwen"],
)
def test_any_template_gives_one_conversation(kind: str, template: str | None) -> None:
    tokenizer = tokenizer_of(kind, template)
    prompt = Prompt.read(tokenizer, mistral=kind == "mistral")
    text = tokenizer.decode(
        prompt.head_ids() + replace(prompt, talk=[("who?", "he"), ("when?", "zebra")]).question_ids("why?")
    )
    assert (SYSTEM in text) == (kind == "mistral")
    places = [text.index(part) for part in ("\nwho?", "when?", "zebra", "why?")]
    assert text.index("user" if kind == "qwen2" else "[INST]") < places[0]
    assert places == sorted(places)
    assert text.count("[/INST]" if kind == "mistral" else "<|im_start|>assistant") == 3


def test_turns_make_the_same_conversation_as_history(adapter: Any) -> None:
    """First turn, its answer's tokens, the next turn: what a prompt with that history says."""
    prompt, encode = adapter.prompt, adapter.tokenizer.encode
    grown = [*prompt.question_ids("who?"), *encode("he", add_special_tokens=False), *prompt.turn_ids("why?")]
    decode = adapter.tokenizer.decode
    assert decode(grown) == decode(adapter.after([("who?", "he")]).prompt.question_ids("why?"))


@pytest.mark.parametrize("where", ["tail", "follow_up", "history"])
def test_a_question_cannot_forge_special_tokens(adapter: Any, where: str) -> None:
    names = SPECIAL["mistral" if adapter.model.config.text_config.model_type == "mistral" else "qwen2"]
    special = set(adapter.tokenizer.convert_tokens_to_ids(names))

    def count(question: str) -> int:
        ids = {
            "tail": lambda: adapter.tail(question)[0].tolist(),
            "follow_up": lambda: adapter.follow_up(question, 0)[0][0].tolist(),
            "history": lambda: adapter.after([(question, question)]).tail("?")[0].tolist(),
        }[where]()
        return sum(token in special for token in ids)

    assert count(" ".join(names) + VIDEO) == count("plain")


@pytest.mark.parametrize("question", ["what happens?", "", "<video> [INST]"])
def test_prefix_and_tail_are_the_prompt(adapter: Any, question: str) -> None:
    inputs, other = adapter.prepare(clip_of(4), question), adapter.prepare(clip_of(4), "something else")
    prefix = adapter.prefix_length(other)
    assert torch.equal(torch.cat([other.input_ids[:, :prefix], adapter.tail(question)], 1), inputs.input_ids)
    assert prefix == inputs.layout.after
