"""Which settings must be the same to continue a ledger."""

from dataclasses import replace

import pytest

from purekv_cli.batch.identity import check_same, identity
from purekv_cli.errors import UsageError
from purekv_cli.models.registry import resolve
from purekv_cli.settings import ClipSettings, MethodSettings, ModelSettings, Settings, SoundSettings

BASE = Settings(model=ModelSettings(model="demo"))
DEMO = resolve("demo")


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        (replace(BASE, clip=ClipSettings(max_frames=3)), "max_frames"),
        (replace(BASE, clip=ClipSettings(start=1.0)), "start"),
        (replace(BASE, sound=SoundSettings(audio=True)), "audio"),
        (replace(BASE, method=MethodSettings(budget="0.5")), "budget"),
        (replace(BASE, method=MethodSettings(dense=True)), "policy"),
        (replace(BASE, method=MethodSettings(propagate="4:0.35")), "propagate"),
        (replace(BASE, model=ModelSettings(model="demo", seed=1)), "seed"),
        (replace(BASE, model=ModelSettings(model="demo", max_tokens=3)), "max_tokens"),
    ],
)
def test_what_answers_depend_on_is_named(changed: Settings, name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} was .* and is now"):
        check_same(identity(BASE, DEMO), identity(changed, DEMO), "out.jsonl")


def test_the_same_wish_in_other_words_is_the_same() -> None:
    model = ModelSettings("demo", device="cpu", offline=True)
    other = replace(BASE, method=MethodSettings(budget="20%", preset="demo"), model=model)
    check_same(identity(BASE, DEMO), identity(other, DEMO), "out.jsonl")


def test_settings_that_one_side_does_not_know_are_no_difference() -> None:
    check_same({"model": {"seed": 0, "old": 1}}, {"model": {"seed": 0, "new": 2}}, "out.jsonl")
