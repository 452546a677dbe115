"""What a cache holds of a probe is what a probe finds; whatever might find something else is asked again."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from purekv_cli.settings import CacheSettings, Settings
from purekv_cli.store import content
from purekv_cli.store import probed as module
from purekv_cli.store.content import digest
from purekv_cli.store.file import Kept, tensors_of, write
from purekv_cli.store.folder import Folder
from purekv_cli.store.key import Key, name_of
from purekv_cli.store.probed import known_or_probed, written
from purekv_cli.video.info import Scene, VideoInfo
from purekv_cli.video.probe import probe
from purekv_cli.video.source import Local
from tests.clips import GOOD_CLIPS, Recipe, make
from tests.runtime.adapter import TinyAdapter
from tests.store.kept import FEW, engine, last, snapshot


@pytest.fixture(scope="module")
def kept() -> Kept:
    adapter = TinyAdapter()
    session = engine(adapter).open(adapter.inputs("what?"))
    last(session.ask("what?", FEW))
    return Kept(snapshot(session), None)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make(tmp_path, Recipe("b_frames.mkv", b_frames=2)).path


def put(folder: Path, kept: Kept, info: VideoInfo) -> Folder:
    """A cache of that clip."""
    folder.mkdir()
    key = Key(name_of(info.size_bytes, digest(info.path)) + "0123", digest(info.path), {"made": 0.0})
    kept = replace(kept, probed=written(info))
    write(Folder(folder).place(key.name), key, kept, tensors_of(kept))
    return Folder(folder)


@pytest.fixture
def folder(tmp_path: Path, kept: Kept, clip: Path) -> Folder:
    return put(tmp_path / "kv", kept, probe(clip))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was probed after all."""
    seen: list[object] = []
    monkeypatch.setattr(module, "probe", lambda video: seen.append(video) or probe(video))
    return seen


@pytest.mark.parametrize("recipe", GOOD_CLIPS, ids=lambda recipe: recipe.name)
def test_every_fact_comes_back_as_it_was(recipe: Recipe, tmp_path: Path) -> None:
    found = probe(make(tmp_path, recipe).path)
    facts = json.loads(json.dumps(written(found)))
    facts.pop("by")
    assert module._restored(Local(found.path), facts) == found


def test_a_clip_that_has_a_cache_is_not_probed_again(clip: Path, folder: Folder, asked: list[object]) -> None:
    """Whatever it is called now, and however it came here."""
    moved = clip.rename(clip.with_name("moved.MKV"))
    assert known_or_probed(moved, folder) == replace(probe(moved), path=moved)
    assert known_or_probed(Local(moved, "-"), folder) == replace(probe(moved), source="-")
    assert not asked


def test_scenes_belong_to_the_range_that_was_asked_for(tmp_path: Path, clip: Path, kept: Kept) -> None:
    found = probe(clip)
    scenes = (Scene(0.0, 1.0, 1.5, 0.0),)
    assert known_or_probed(clip, put(tmp_path / "kv", kept, replace(found, scenes=scenes, source="-"))) == found


@pytest.mark.parametrize("other", ["bytes", "suffix", "code", "library", "damage"])
def test_something_else_is_probed(
    clip: Path, folder: Folder, asked: list[object], other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if other == "bytes":
        whole = bytearray(clip.read_bytes())
        whole[-1] ^= 1
        clip.write_bytes(whole)
    elif other == "suffix":
        clip = clip.rename(clip.with_suffix(".webm"))
    elif other == "code":
        monkeypatch.setattr(module, "code", lambda: "somebody worked on it")
    elif other == "library":
        monkeypatch.setattr(module, "libraries", lambda: ["av 999"])
    else:
        (file,) = folder.path.iterdir()
        whole = bytearray(file.read_bytes())
        at = whole.index(b"frame_times")
        whole[at] ^= 1
        file.write_bytes(whole)
    assert known_or_probed(clip, folder) == probe(clip)
    assert asked == [clip]


def test_no_digest_is_taken_where_no_cache_can_be(
    clip: Path, folder: Folder, asked: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "digest", None)
    with clip.open("ab") as file:
        file.write(b"1")
    known_or_probed(clip, folder)
    known_or_probed(clip, Folder(folder.path / "nowhere"))
    module.probed(clip, Settings(cache=CacheSettings(cache=False)))
    assert asked == [clip] * 3


def test_what_is_no_video_is_left_to_the_probe(tmp_path: Path, folder: Folder) -> None:
    from purekv_cli.errors import UnreadableInput

    for path in (tmp_path, tmp_path / "nothing.mp4"):
        with pytest.raises(UnreadableInput):
            known_or_probed(path, folder)


def test_a_digest_is_taken_once_of_a_file_that_is_left_alone(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Path] = []
    whole = content._digest
    monkeypatch.setattr(content, "_digest", lambda path: taken.append(path) or whole(path))
    first = digest(clip)
    assert digest(clip) == first
    assert len(taken) == 2  # it was written just now: another write might not show
    monkeypatch.setattr(content, "_QUIET", -(10**18))
    assert [digest(clip), digest(clip)] == [first, first]
    assert len(taken) == 3
    with clip.open("ab") as file:
        file.write(b"1")
    os.utime(clip)
    assert digest(clip) != first
    content.forget()
    digest(clip)
    assert len(taken) == 5
