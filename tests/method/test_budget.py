"""Budgets as people write them, and what they come to."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from purekv_cli.errors import UsageError
from purekv_cli.method.budget import Budget, layer_entries


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("0.2", "fraction", 0.2),
        ("1", "fraction", 1.0),
        (".5", "fraction", 0.5),
        ("20%", "fraction", 0.2),
        ("4096t", "tokens", 4096),
        ("4096 tokens", "tokens", 4096),
        ("512MiB", "bytes", 512 * 2**20),
        (" 1.5 GB ", "bytes", 1.5e9),
        ("100b", "bytes", 100),
    ],
)
def test_reads_what_people_write(text, kind, value):
    assert Budget.parse(text) == Budget(kind, value)


@pytest.mark.parametrize(
    "text", ["", "0", "0%", "1.2", "120%", "-0.2", "0t", "abc", "5 furlongs", "0MiB", "nan", "1e-1"]
)
def test_refuses_what_cannot_be_right(text):
    with pytest.raises(UsageError) as error:
        Budget.parse(text)
    assert error.value.exit_code == 2
    assert "512MiB" in error.value.hint


def test_comes_to_a_number_of_entries():
    assert Budget("fraction", 0.2).entries(1000, 50, 64) == 200
    assert Budget("tokens", 300).entries(1000, 50, 64) == 300
    assert Budget("bytes", 64 * 250 + 63).entries(1000, 50, 64) == 250
    assert Budget("tokens", 5000).entries(1000, 50, 64) == 1000
    assert Budget("fraction", 1.0).entries(40, 40, 64) == 40, "a prompt that is all text fits whole"


@given(share=st.floats(0.01, 1), prompt=st.integers(1, 5000), protected=st.integers(0, 100))
def test_keeps_all_text_and_some_video_or_says_what_would(share, prompt, protected):
    protected, budget = min(protected, prompt), Budget("fraction", share)
    if math.floor(share * prompt + 1e-9) > protected or prompt == protected:
        assert budget.entries(prompt, protected, 64) == math.floor(share * prompt + 1e-9)
        return
    with pytest.raises(UsageError, match="must stay") as error:
        budget.entries(prompt, protected, 64)
    for advised in (f"{protected + 1}t", error.value.hint.split()[3]):
        assert advised in error.value.hint
        assert Budget.parse(advised).entries(prompt, protected, 64) > protected


@given(st.one_of(st.floats(0.001, 1).map(lambda x: f"{x:.3f}"), st.integers(1, 10**6).map("{}t".format)))
def test_what_is_shown_can_be_typed(text):
    assert Budget.parse(str(Budget.parse(text))) == Budget.parse(text)


@example(  # full layers between others, halves to round
    room=6, texts=[0, 0, 0, 0, 0], video=9, weights=[1.0, 1.0, 2.0, 1.0, 1.0]
)
@given(
    room=st.integers(0, 500),
    texts=st.lists(st.integers(0, 60), min_size=12, max_size=12),
    video=st.integers(1, 400),
    weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=12),
)
def test_weighted_layers_keep_the_bytes_of_equal_ones(room, texts, video, weights):
    texts = texts[: len(weights)]
    mean = max(texts) + min(room, video)  # what the text asks for, and some of the video
    kept = layer_entries(mean, texts, video, weights)
    assert sum(kept) == min(len(weights) * mean, sum(texts) + len(weights) * video)
    parts = [entries - text for entries, text in zip(kept, texts, strict=True)]
    assert all(0 <= part <= video for part in parts)
    shares = [part / weight for part, weight in zip(parts, weights, strict=True)]
    free = [i for i, part in enumerate(parts) if part < video]
    for i in free:  # in proportion, up to the rounding of an entry; a layer that is full would have had more
        for j in range(len(weights)):
            over = 1 / weights[i] + 1 / weights[j]
            assert shares[j] <= shares[i] + over
            if j in free:
                assert shares[j] >= shares[i] - over


def test_layers_without_weights_share_the_video_equally():
    assert layer_entries(40, [10] * 4, 100, ()) == [40] * 4
    assert layer_entries(40, [10, 2, 10, 2], 100, ()) == [44, 36, 44, 36], "what two layers' text leaves goes to all"
    assert layer_entries(40, [10] * 3, 100, (1, 2, 6)) == [20, 30, 70]
    assert layer_entries(50, [10] * 3, 60, (1, 1, 8)) == [40, 40, 70], "the third is full"
