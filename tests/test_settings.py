"""Settings: which source wins, and that nothing misspelt is ignored."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.commands.options import ClipFlags, MethodFlags, ModelFlags, OutputFlags
from purekv_cli.errors import UsageError
from purekv_cli.settings import ClipSettings, MethodSettings, ModelSettings, OutputSettings, parse_time, settle


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("PUREKV_CONFIG", str(path))
    return path


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1:30", 90), ("1:02:03.5", 3723.5), ("0", 0), ("0:00.25", 0.25), ("75.5", 75.5), (" 2:05 ", 125)],
)
def test_times_are_seconds_minutes_or_hours(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "abc", "1:60", "1:2:3:4", "-5", "1.5:30", "nan", "inf", "1:-3", ":", "1:"])
def test_other_times_are_refused_with_the_three_forms(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_time(text)
    assert "1:02:03.5" in caught.value.hint


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_hours_minutes_and_seconds_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_time(f"{hours}:{minutes:02d}:{seconds:02d}") == hours * 3600 + minutes * 60 + seconds


def test_a_flag_wins_over_the_config_file_and_the_file_over_the_default(config: Path) -> None:
    config.write_text('model = "7b"\nmax-tokens = 64\nbudget = 0.1\n')
    settings = settle(ModelFlags(model="3b"), MethodFlags())
    assert (settings.model.model, settings.model.max_tokens, settings.method.budget) == ("3b", 64, "0.1")
    assert settings.model.seed == 0


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("bugdet = 0.2", "'budget'"),
        ("max_tokens = 'many'", "int"),
        ("dtype = 'float8'", "bfloat16"),
        ("model = ", "Mend"),
        ("frames = true", "int"),
    ],
)
def test_a_wrong_line_in_the_config_file_is_named(config: Path, line: str, hint: str) -> None:
    config.write_text(line)
    with pytest.raises(UsageError) as caught:
        settle()
    assert str(config) in str(caught.value)
    assert hint in caught.value.hint


def test_a_config_file_that_was_named_must_exist(config: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        settle()


@pytest.mark.parametrize(
    "flags",
    [
        ClipFlags(frames=0),
        ClipFlags(max_frames=-1),
        ClipFlags(fps=0.0),
        ClipFlags(fps=float("nan")),
        ClipFlags(max_pixels=100),
        ClipFlags(start=10.0, end=10.0),
        ModelFlags(max_tokens=0),
        MethodFlags(dense=True, policy="random"),
    ],
)
def test_impossible_values_are_found_before_any_work(flags: object) -> None:
    with pytest.raises(UsageError) as caught:
        settle(flags)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (ClipFlags, ClipSettings),
        (ModelFlags, ModelSettings),
        (MethodFlags, MethodSettings),
        (OutputFlags, OutputSettings),
    ],
)
def test_every_flag_has_a_setting_of_its_name(flags: type, settings: type) -> None:
    assert set(flags.__dataclass_fields__) == set(settings.__dataclass_fields__)
