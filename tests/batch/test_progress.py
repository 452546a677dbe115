"""Counts and rates of a running batch."""

from purekv_cli.batch.job import Item
from purekv_cli.batch.messages import Done, Ready, Reply
from purekv_cli.batch.progress import Tally

ITEM = Item("a.mp4", "why?")
ANSWER = Reply(ITEM, {"status": "answered", "stats": {"new_tokens": 30}})
FAILURE = Reply(ITEM, {"status": "failed"})


def test_rates_leave_out_the_time_before_the_model_was_there() -> None:
    time = 0.0
    tally = Tally(items=20, videos=10, now=lambda: time)
    assert tally.line() == "0 answered, 0 failed of 20, 0 videos/h, 0.0 tokens/s"
    time = 100.0
    tally.take(Ready("demo", 1))
    for _ in range(4):
        for message in (ANSWER, FAILURE, Done()):
            tally.take(message)
    time = 140.0
    assert tally.videos_per_hour == 360
    assert tally.tokens_per_second == 3
    assert tally.seconds_left == 60
    assert tally.line() == "4 answered, 4 failed of 20, 360 videos/h, 3.0 tokens/s, 1:00 left"


def test_a_second_worker_does_not_set_the_clock_back() -> None:
    time = 0.0
    tally = Tally(1, 1, now=lambda: time)
    tally.take(Ready("demo", 1))
    time = 50.0
    tally.take(Ready("demo", 2))
    assert tally.working == 50
