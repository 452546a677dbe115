"""A clip that has a cache is not probed again: the same bytes under the same suffix give the same facts.

A probe reads every packet, which takes longer than the digest of the file. So a cache file holds what the probe of its
clip found, and is found again by the clip's size and digest. Nobody's digest is taken for nothing: where no cache is of
a clip of that size, there is only the probe.
"""

from contextlib import suppress
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from purekv_cli.settings import Settings
from purekv_cli.store.content import digest
from purekv_cli.store.folder import Folder
from purekv_cli.store.header import Damaged, read_header
from purekv_cli.store.key import code, libraries, name_of
from purekv_cli.video.info import VideoInfo
from purekv_cli.video.probe import probe
from purekv_cli.video.source import Local

_OF_THIS_RUN = ("path", "source", "scenes")
_TUPLES = ("frame_times", "keyframe_times")
_BY = "by"  # what probed: another suffix, decoder or code may find something else


def probed(video: Path | Local, settings: Settings) -> VideoInfo:
    """`probe`, unless the user's cache on disk knows the clip.

    Raises:
        UnreadableInput: as of `probe`.
    """
    return probe(video) if settings.cache.cache is False else known_or_probed(video, Folder.of_user())


def known_or_probed(video: Path | Local, folder: Folder) -> VideoInfo:
    """`probe`, unless `folder` has a cache of the same clip."""
    local = video if isinstance(video, Local) else Local(video)
    with suppress(OSError):  # the probe says it better
        if local.path.is_file() and (found := _found(local, folder)):
            return found
    return probe(video)


def written(info: VideoInfo) -> dict[str, Any] | None:
    """What is kept of a probe, as JSON has it; None: of images nothing is."""
    if info.kind != "video":
        return None
    facts = {field.name: getattr(info, field.name) for field in fields(info) if field.name not in _OF_THIS_RUN}
    return facts | {"time_base": info.time_base.as_integer_ratio(), _BY: _by(info.path)}


def _found(video: Local, folder: Folder) -> VideoInfo | None:
    size = video.path.stat().st_size
    if not any(folder.of_clip(name_of(size))):
        return None
    content = digest(video.path)
    for file in folder.of_clip(name_of(size, content)):
        with suppress(Damaged):
            header = read_header(file)
            facts = header.state.get("probed")
            if facts and header.video == content and facts.pop(_BY) == _by(video.path):
                return _restored(video, facts)
    return None


def _restored(video: Local, facts: dict[str, Any]) -> VideoInfo:
    facts |= {name: tuple(facts[name]) for name in _TUPLES}
    facts["time_base"] = Fraction(*facts["time_base"])
    return VideoInfo(path=video.path, source=video.name, **facts)


def _by(path: Path) -> list[str]:
    return [path.suffix.lower(), code(), *libraries()]
