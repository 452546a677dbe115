"""Subtitles as the model reads them."""

from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.subtitles.cue import Cue
from purekv_cli.subtitles.lines import HEADER, lines


def words(text: str) -> int:
    return len(text.split())


def test_lines_count_from_what_the_model_calls_zero() -> None:
    cues = [Cue(63.2, 65.4, "two\nlines"), Cue(3661, 3662, "late")]
    assert lines(cues, 60.0, 100, words).text.splitlines() == [
        HEADER,
        "[0:03-0:05] two lines",
        "[1:00:01-1:00:02] late",
    ]
    assert "[1:03-1:05] two lines" in lines(cues, 0.0, 100, words).text


def test_too_many_are_thinned_evenly() -> None:
    cues = [Cue(second, second + 1, f"w{second}") for second in range(100)]
    made = lines(cues, 0.0, words(HEADER) + 20, words)
    assert (made.shown, made.there) == (10, 100)
    assert [line.split()[1] for line in made.text.splitlines()[1:]] == [f"w{n}" for n in range(5, 100, 10)]


def test_no_cue_is_no_text() -> None:
    assert lines([], 0.0, 100, words).text == ""


@given(st.lists(st.integers(1, 60), max_size=60), st.integers(1, 300))
def test_the_limit_holds_and_order_too(lengths: list[int], most: int) -> None:
    cues = [Cue(at, at + 1, " ".join([f"n{at}"] * length)) for at, length in enumerate(lengths)]
    made = lines(cues, 0.0, most, words)
    assert words(made.text) <= most
    assert made.there == len(cues)
    shown = [line.split()[1] for line in made.text.splitlines()[1:]]
    assert len(shown) == made.shown
    assert shown == sorted(shown, key=lambda word: int(word[1:]))
    everything = sum(lengths) + len(lengths) + words(HEADER)
    if cues and everything <= most:
        assert made.shown == len(cues)
