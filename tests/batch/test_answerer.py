"""The answerer of a batch on a real clip, with a tiny random model."""

from dataclasses import replace
from pathlib import Path

import pytest

from purekv_cli.batch.answerer import VideoAnswerer, VideoSpec
from purekv_cli.errors import OutOfResources
from purekv_cli.settings import ClipSettings, ModelSettings, Settings
from tests.clips import Recipe, make


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make(tmp_path_factory.mktemp("clips"), Recipe(frames=24)).path)


@pytest.fixture(scope="module")
def answerer(bundle: Path) -> VideoAnswerer:
    model = ModelSettings(model=str(bundle), device="cpu", dtype="float32", max_tokens=3)
    return VideoSpec(Settings(clip=ClipSettings(end=1.0), model=model), None, decoders=3).build()


def never() -> None: ...


def test_a_clip_has_the_range_of_its_job_else_that_of_the_settings(answerer: VideoAnswerer, clip: str) -> None:
    assert answerer.read((clip, None, None), never, ahead=False).plan.sample.end == 1.0
    own = answerer.read((clip, 0.5, 1.5), never, ahead=True).plan.sample
    assert (own.start, own.end) == (0.5, 1.5)


def test_clips_are_not_decoded_ahead_where_several_have_no_room(
    answerer: VideoAnswerer, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = answerer.read((clip, None, None), never, ahead=True).frames
    monkeypatch.setattr("purekv_cli.batch.answerer.free_memory", lambda: 8 * frames.pixels.nbytes - 1)
    with pytest.raises(OutOfResources, match="beside others"):
        answerer.read((clip, None, None), never, ahead=True)
    assert answerer.read((clip, None, None), never, ahead=False).frames.pixels.nbytes == frames.pixels.nbytes


def test_the_limit_of_time_is_kept_while_decoding_and_while_answering(answerer: VideoAnswerer, clip: str) -> None:
    class Late(Exception): ...

    def late() -> None:
        raise Late

    with pytest.raises(Late):
        answerer.read((clip, None, None), late, ahead=False)
    asked = answerer.open(answerer.read((clip, None, None), never, ahead=False), "why?")
    with pytest.raises(Late):
        asked.ask("why?", late)


def test_a_failed_question_leaves_the_model_as_it_was(answerer: VideoAnswerer, clip: str) -> None:
    read = answerer.read((clip, None, None), never, ahead=False)
    before = answerer.open(read, "why?").ask("why?", never)["answer"]
    broken = replace(read, plan=replace(read.plan, method=replace(read.plan.method, policy="nonsense")))
    with pytest.raises(Exception, match="nonsense"):
        answerer.open(broken, "why?").ask("why?", never)
    assert answerer.open(read, "why?").ask("why?", never)["answer"] == before
