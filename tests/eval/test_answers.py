"""What a model is asked, and which option its words mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.eval.answers import LETTERS, is_right, prompt, read_letter
from purekv_cli.eval.records import Item

ANIMALS = ("a dog", "a cat", "a grey horse", "the bird")


def item(truth: str, *options: str) -> Item:
    return Item("mine", "clip.mp4", "1", "animal", "Who barks?", truth, options)


def test_a_multiple_choice_shows_its_options_and_asks_for_the_letter() -> None:
    lines = prompt(item("A", *ANIMALS)).splitlines()
    assert lines[:5] == ["Who barks?", "A. a dog", "B. a cat", "C. a grey horse", "D. the bird"]
    assert "letter" in lines[5]


def test_a_free_question_is_put_as_it_is() -> None:
    assert prompt(item("a dog")) == "Who barks?"


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(C)", "C"),
        ("**D.**", "D"),
        ("B. a cat", "B"),
        ("C) whatever it says then", "C"),
        ("[A] a dog", "A"),
        ("A: a dog", "A"),
        ("The answer is B.", "B"),
        ("The correct answer is: (D)", "D"),
        ("Option C", "C"),
        ("I would say (B), because it meows.", "B"),
        ("So it must be A.", "A"),
        ("A grey horse can be seen.", "C"),
        ("a dog", "A"),
        ("The bird!", "D"),
        ("It is a cat, I think.", "B"),
        ("A dog or a cat", None),
        ("B or C", None),
        ("Neither A nor B", None),
        ("E", None),
        ("A fish swims by.", None),
        ("", None),
        ("?!", None),
    ],
)
def test_the_letter_is_read_as_a_person_would(answer: str, letter: str | None) -> None:
    assert read_letter(answer, ANIMALS) == letter


def test_options_that_are_single_signs() -> None:
    assert read_letter("3", ("1", "2", "3")) == "C"
    assert read_letter("13", ("1", "2", "3")) is None
    assert read_letter("c", ("q", "c", "k")) == "C"  # the letter was asked for, so a letter is a letter


@given(st.integers(2, 26), st.data())
def test_every_letter_of_a_list_is_read_in_every_dress(count: int, data: st.DataObject) -> None:
    options = tuple(f"thing {n}" for n in range(count))
    letter = LETTERS[data.draw(st.integers(0, count - 1))]
    dress = data.draw(st.sampled_from(["{}", "({})", "{}.", "{})", "The answer is {}", "Answer: {}.", "**{}**"]))
    assert read_letter(dress.format(letter), options) == letter


@given(st.text(max_size=40))
def test_any_answer_is_read_as_one_of_the_letters_or_as_none(answer: str) -> None:
    assert read_letter(answer, ANIMALS) in (None, "A", "B", "C", "D")


def test_right_is_the_letter_or_the_words() -> None:
    assert is_right(item("A", *ANIMALS), "A. a dog")
    assert not is_right(item("A", *ANIMALS), "B")
    assert is_right(item("A dog."), "a  DOG")
    assert not is_right(item("a dog"), "a dog and a cat")
