"""What is put to the model for an item, and whether its answer is right.

Multiple choice is asked and graded by letter. Models say it in many ways ("B", "(B) a dog.", "The answer is B", "a
dog"); what cannot be read as one option is wrong. Free answers must equal the truth up to case, punctuation and blanks.
"""

import re
import string
from collections.abc import Sequence

from purekv_cli.demo.language import normalise
from purekv_cli.eval.records import Item

LETTERS = string.ascii_uppercase

# In this order; each with the letter as its group. A bare "A" or "I" inside a sentence is a word, not an option.
_SAID = (
    r"^\W*([A-Z])\W*$",  # B, (B), **B.**
    r"^\W*([A-Z])\s*[).:\]]",  # B. a dog
    r"\b(?:answer|option|choice|letter)\b(?:\s+(?:is|was|would be|must be))?\W*\b([A-Z])(?![\w'])",  # the answer is: B
    r"[(\[]([A-Z])[)\]]",  # I would say (B) because
    r"\b([B-HJ-Z]|[AI](?=\W*$|\s+(?:and|or|nor)\b))(?![\w'])",  # so it must be B
)


def prompt(item: Item) -> str:
    """The question as it is put to the model: a multiple choice shows its options and asks for the letter."""
    if not item.options:
        return item.question
    options = (f"{letter}. {option}" for letter, option in zip(LETTERS, item.options, strict=False))
    return "\n".join([item.question, *options, "Answer with the letter of the right option only."])


def is_right(item: Item, answer: str) -> bool:
    """Whether the answer is the true one; of a multiple choice `truth` is the letter."""
    if item.options:
        return read_letter(answer, item.options) == item.truth
    return normalise(answer) == normalise(item.truth)


def read_letter(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the one option that the answer means; None if it means none or several."""
    said = normalise(answer)
    same = [letter for letter, option in zip(LETTERS, options, strict=False) if said and normalise(option) == said]
    if len(same) == 1 and len(said) > 1:
        return same[0]
    valid = LETTERS[: len(options)]
    if re.fullmatch(rf"\W*[{valid.lower()}]\W*", answer):
        return said.upper()
    for pattern in _SAID:
        found = {letter for letter in re.findall(pattern, answer) if letter in valid}
        if found:
            return found.pop() if len(found) == 1 else None
    held = [
        letter
        for letter, option in zip(LETTERS, options, strict=False)
        if normalise(option) and f" {normalise(option)} " in f" {said} "
    ]
    return held[0] if len(held) == 1 else None
