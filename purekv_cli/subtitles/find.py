"""Which subtitles a video gets: the file that is named, or with `auto` its own stream, else a file beside it."""

import re
from dataclasses import dataclass
from pathlib import Path

from purekv_cli.subtitles.cue import Cue
from purekv_cli.subtitles.read import read_file, read_own
from purekv_cli.video.info import VideoInfo

AUTO = "auto"
SUFFIXES = (".srt", ".vtt", ".ass", ".ssa")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)?")


@dataclass(frozen=True, slots=True)
class Found:
    """All subtitles of a video."""

    cues: tuple[Cue, ...]  # by time; none where nothing was found
    source: str  # for people: "its own stream", "clip.en.srt"
    missing: str | None = None  # what was looked for in vain


def find(wish: str, info: VideoInfo) -> Found:
    """The subtitles that `wish` means for the video: `auto`, or a file.

    Errors: UnreadableInput for a file that is missing or holds none, whether named or found beside the video.
    """
    if wish != AUTO:
        return Found(tuple(read_file(Path(wish).expanduser())), Path(wish).name)
    own = "no stream of its own"
    if info.kind == "video":
        cues, pictures = read_own(info.path, float(info.origin * info.time_base))
        if cues:
            return Found(tuple(cues), "its own stream")
        own = "its own are pictures, not text" if pictures else own
    if beside := _beside(info.path):
        return Found(tuple(read_file(beside)), beside.name)
    looked = ", ".join(f"{info.path.stem}[.LANGUAGE]{suffix}" for suffix in SUFFIXES)
    return Found((), "", f"no subtitles of {info.path.name}: {own}, and none of {looked} beside it")


def _beside(video: Path) -> Path | None:
    """A subtitle file of the same stem; one with a language in its name where there is none without."""
    found = []
    for path in video.parent.iterdir():
        if path.suffix.lower() not in SUFFIXES or not path.name.startswith(video.stem):
            continue
        middle = path.stem[len(video.stem) :]
        if not middle or (middle.startswith(".") and _LANGUAGE.fullmatch(middle[1:])):
            found.append((bool(middle), SUFFIXES.index(path.suffix.lower()), path.name, path))
    return min(found)[-1] if found else None
