"""Where questions and the frames they are about come from: the rendered world, or files read ahead of the model."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any, Protocol

from purekv_cli.commands.model import ChosenModel
from purekv_cli.demo.clips import make_clip
from purekv_cli.errors import PureKVError
from purekv_cli.eval import clipworld
from purekv_cli.eval.datasets import DataSet, Problem
from purekv_cli.eval.fragments import split_part
from purekv_cli.eval.records import Item
from purekv_cli.eval.request import World
from purekv_cli.models.geometry import ModelGeometry
from purekv_cli.pipeline import Run, make_plan
from purekv_cli.presets import choose, clip_settings
from purekv_cli.settings import MethodSettings, Settings
from purekv_cli.video.decode import decode
from purekv_cli.video.frames import Frames
from purekv_cli.video.probe import probe

Video = tuple[Item, ...]  # all questions about one video
Read = Iterator[tuple[Video, Frames | PureKVError]]

AHEAD = 2  # videos decoded while the model works


class Source(Protocol):
    """Videos with their questions."""

    name: str
    videos: tuple[Video, ...]
    problems: tuple[Problem, ...]  # what cannot be asked

    @property
    def settings(self) -> dict[str, Any]:
        """What answers depend on, for the ledger."""
        ...

    def short(self, video: str) -> str:
        """A video's name in results: the same wherever the data lies."""
        ...

    def read(self, videos: Sequence[Video]) -> Read:
        """The frames of these videos, in order; an error where there are none."""
        ...


class ClipWorld:
    """Clips that are rendered from seeds, written as mp4 and read again."""

    name = "clipworld"
    problems: tuple[Problem, ...] = ()

    def __init__(self, world: World, geometry: ModelGeometry) -> None:
        self._world, self._geometry = world, geometry
        self.videos: tuple[Video, ...] = tuple(
            tuple(clipworld.items_of(make_clip(seed, suite), world.questions))
            for suite in world.suites
            for seed in world.seeds
        )

    @property
    def settings(self) -> dict[str, Any]:
        return {"data": self.name, "questions": self._world.questions}

    def short(self, video: str) -> str:
        return video

    def read(self, videos: Sequence[Video]) -> Read:
        return _ahead(videos, self._frames)

    def _frames(self, video: str) -> Frames:
        return clipworld.frames_of(video, self._geometry)


class Files:
    """Videos on disk with questions from a data file."""

    def __init__(
        self, data: DataSet, suites: Sequence[str], limit: int | None, settings: Settings, model: ChosenModel
    ) -> None:
        """
        Args:
            limit: videos of each suite at most; None: all.
            settings: how frames are chosen.
            model: for which they are chosen.
        """
        self.name, self.problems, self._folder = data.name, data.problems, data.folder
        self._settings, self._model = replace(settings, method=MethodSettings(dense=True)), model
        grouped: dict[str, dict[str, list[Item]]] = {suite: {} for suite in suites}
        for item in data.items:
            if item.suite in grouped:
                grouped[item.suite].setdefault(item.video, []).append(item)
        self.videos: tuple[Video, ...] = tuple(
            tuple(items) for videos in grouped.values() for items in list(videos.values())[:limit]
        )

    @property
    def settings(self) -> dict[str, Any]:
        preset = choose(None, self._model.names)
        sound = {"sound": True} if self._settings.sound.audio else {}
        return {"data": self.name, "sample": asdict(clip_settings(preset, self._settings.clip)), **sound}

    def short(self, video: str) -> str:
        return video.removeprefix(f"{self._folder}{os.sep}")

    def read(self, videos: Sequence[Video]) -> Read:
        return _ahead(videos, self._frames)

    def _frames(self, video: str) -> Frames:
        path, start, end = split_part(video)
        settings = self._settings
        if (start, end) != (None, None):
            settings = replace(settings, clip=replace(settings.clip, start=start, end=end))
        plan = make_plan(probe(path), self._model.geometry, self._model.names, settings)
        return Run(plan).with_sound(decode(plan.info, plan.sample, plan.size))


def _ahead(videos: Sequence[Video], frames: Callable[[str], Frames]) -> Read:
    """Read a few videos ahead of who asks for them."""
    waiting: deque[tuple[Video, Future[Frames]]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for video in videos:
            waiting.append((video, pool.submit(frames, video[0].video)))
            if len(waiting) > AHEAD:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())


def _finished(video: Video, future: Future[Frames]) -> tuple[Video, Frames | PureKVError]:
    try:
        return video, future.result()
    except PureKVError as error:
        return video, error
