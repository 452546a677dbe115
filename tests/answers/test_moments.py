"""Times in answers: found where they are times, and only there."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from purekv_cli.answers.moments import moments


def seconds(text: str) -> list[float]:
    return [moment.seconds for moment in moments(text)]


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("At 0:12 a dog barks.", [12]),
        ("The dog barks at 1:12, 1:30 and 2:05.", [72, 90, 125]),
        ("It happens from 1:05 to 1:10.", [65, 70]),
        ("0:12-0:15: a dog\n0:15-0:20: a cat", [12, 15, 15, 20]),
        ("- **1:05** - a dog\n- 1:10.5 - a cat", [65, 70.5]),
        ("1:05.", [65]),
        ("Rain (1:05), then sun [2:00].", [65, 120]),
        ("It says 3 things: 00:01:05.", [65]),
        ("It ends at 1:02:03.25", [3723.25]),
        ("at 12.5 seconds", [12.5]),
        ("between 12 and 15 seconds", [12, 15]),
        ("from 3s to 5 s, and around the 20 second mark", [3, 5, 20]),
        ("12 seconds into the clip", [12]),
        ("<12.5 seconds> [14s]", [12.5, 14]),
        ("12 s: a dog\n15.5 s: a cat", [12, 15.5]),
        ("At 1 minute and 5 seconds", [65]),
    ],
)
def test_times_are_found(text: str, times: list[float]) -> None:
    assert seconds(text) == times


@pytest.mark.parametrize(
    "text",
    [
        "The score is 0:12.",
        "They won 21:15 at home.",
        "at 3:2",
        "The aspect ratio is 16:10, near 0:16.",
        "at 10:30 am",
        "It opens at 9:00 p.m. every day.",
        "The clock on the wall reads 0:12.",
        "A camera's date: 2024-05-01 13:45:20",
        'The board reads "0:12".',
        "The display shows 0:12 and 0:13.",
        "at 5 seconds before the end",
        "John 3:16",
        "open 9:00-17:00",
        "It lasts 12 seconds.",
        "for about 12 s",
        "a 12-second clip, at least 10 seconds",
        "10 seconds later",
        "after 5 seconds of silence",
        "at 12 seconds long",
        "at 1:75 and at 12:5",
        "Between 3 and 5 people.",
        "at 12",
        "192.168.0:12",
        "The number 11 flashes, then the star blinks twice.",
    ],
)
def test_what_may_be_something_else_is_passed_over(text: str) -> None:
    assert moments(text) == []


def test_the_text_and_how_exact_it_is_are_told() -> None:
    found = moments("at 0:12, 12.5 seconds and 1 min 5.25 s")
    assert [(moment.text, moment.precision) for moment in found] == [
        ("0:12", 1.0),
        ("12.5 seconds", 0.1),
        ("1 min 5.25 s", 0.01),
    ]


@given(
    st.integers(0, 99),
    st.integers(0, 59),
    st.integers(0, 59),
    st.sampled_from(["At {}", "from {}", "[{}]", "{}: a dog"]),
)
def test_every_written_time_is_read_back(hours: int, minutes: int, rest: int, sentence: str) -> None:
    written = f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
    (found,) = moments(sentence.format(written))
    assert (found.text, found.seconds) == (written, hours * 3600 + minutes * 60 + rest)


@given(
    st.integers(0, 999),
    st.integers(0, 99),
    st.sampled_from(["They won {}", "the ratio {}", "a score of {}", "{} goals"]),
)
def test_no_score_is_a_time(ours: int, theirs: int, sentence: str) -> None:
    assume(ours != 0 or "goals" not in sentence)  # 0:12 alone reads as a time
    assert moments(sentence.format(f"{ours}:{theirs}")) == []


@given(st.text(alphabet="0123456789:.-, \nats[]()econdmi", max_size=60))
def test_whatever_stands_there_it_holds_together(text: str) -> None:
    found, place = moments(text), 0
    for moment in found:
        place = text.index(moment.text, place) + len(moment.text)
        assert moment.seconds >= 0
        assert 0 < moment.precision <= 1
