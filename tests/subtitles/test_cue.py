"""What happens to cues between the file and the prompt."""

from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.subtitles.cue import TOUCHING, Cue, said_once, within

TIMES = st.integers(0, 400).map(lambda tenths: tenths / 10)
CUES = st.lists(
    st.builds(
        lambda start, length, words: Cue(start, start + length, "\n".join(words)),
        TIMES,
        TIMES,
        st.lists(st.sampled_from(["a", "b", "c", "", " "]), max_size=3),
    ),
    max_size=12,
)


def test_rolling_captions_are_said_once() -> None:
    rolling = [Cue(0, 2, "one"), Cue(2, 4, "one\ntwo"), Cue(4, 6, "two\nthree"), Cue(6, 7, "two\nthree")]
    assert said_once(rolling) == [Cue(0, 2, "one"), Cue(2, 4, "two"), Cue(4, 7, "three")]


def test_what_is_said_again_later_is_said_again() -> None:
    again = [Cue(0, 1, "yes"), Cue(5, 6, "yes")]
    assert said_once(again) == again


@given(CUES)
def test_no_word_is_lost_and_none_is_invented(cues: list[Cue]) -> None:
    kept = said_once(cues)
    assert [cue.start for cue in kept] == sorted(cue.start for cue in kept)
    assert {word for cue in kept for word in cue.text.split()} == {word for cue in cues for word in cue.text.split()}
    assert all(cue.text.strip() for cue in kept)
    assert said_once([]) == []


@given(CUES, TIMES, TIMES)
def test_within_are_those_on_show(cues: list[Cue], start: float, length: float) -> None:
    end = start + length + 0.1
    kept = within(cues, start, end)
    assert len(kept) == sum(cue.start < end and max(cue.end, cue.start + TOUCHING) > start for cue in cues)
    assert all(start <= cue.start < end and cue.end <= end for cue in kept)


def test_a_cue_that_is_cut_keeps_its_text() -> None:
    cues = [Cue(0, 9.9, "a"), Cue(8, 12, "b"), Cue(19, 25, "c"), Cue(20, 21, "d")]
    assert within(cues, 10, 20) == [Cue(10, 12, "b"), Cue(19, 20, "c")]
