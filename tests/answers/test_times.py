"""Times in answers against the clip they speak of."""

from purekv_cli.answers.times import Mention, mentions, outside

FRAMES = [60.0, 60.5, 61.0, 75.0]


def test_times_are_those_of_the_video_and_know_their_frame() -> None:
    found = mentions("At 0:00, at 0.7 seconds and at 0:14", 60.0, (60.0, 80.0), FRAMES)
    assert found == [
        Mention("0:00", 60.0, True, 60.0),
        Mention("0.7 seconds", 60.7, True, 60.5),
        Mention("0:14", 74.0, True, 75.0),
    ]
    assert outside(found, 60.0, (60.0, 80.0)) is None


def test_a_model_that_is_told_the_videos_times_counts_in_them() -> None:
    (found,) = mentions("at 1:01", 0.0, (60.0, 80.0), FRAMES)
    assert found == Mention("1:01", 61.0, True, 61.0)


def test_times_outside_are_said_in_the_models_own_count() -> None:
    span = (60.0, 80.0)
    found = mentions("at 0:10, at 0:21 and at 1:15", 60.0, span, FRAMES)
    assert [mention.in_clip for mention in found] == [True, False, False]
    said = outside(found, 60.0, span)
    assert said == "the answer says 0:21, 1:15, but the clip the model saw goes from 0:00 to 0:20"
    assert "from 1:00 to 1:20" in (outside(mentions("at 0:10", 0.0, span, FRAMES), 0.0, span) or "")


def test_a_time_is_only_as_exact_as_it_is_written() -> None:
    ends = (0.0, 15.6)
    assert [found.in_clip for found in mentions("at 0:16, 15.6 s, 15.7 s", 0.0, ends, FRAMES)] == [True, True, False]


def test_without_frames_there_is_none_near() -> None:
    assert mentions("at 0:01", 0.0, (0.0, 2.0), [])[0].nearest_frame is None
