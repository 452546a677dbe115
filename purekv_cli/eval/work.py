"""Who grades: this process, which reads the next video while the model works, or several that each hold a model.

A small model keeps neither a GPU nor all cores of a CPU busy alone; several GPUs share the processes.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from purekv_cli.batch.places import environments
from purekv_cli.commands.model import ChosenModel
from purekv_cli.errors import OutOfResources, PureKVError
from purekv_cli.eval.arms import Arm
from purekv_cli.eval.records import Graded, Way
from purekv_cli.eval.source import Source, Video
from purekv_cli.settings import Settings
from purekv_cli.terminal import Terminal
from purekv_cli.video.frames import Frames

Outcome = list[Graded] | str  # a video's answers, or why there are none
Wanted = Mapping[Video, Sequence[Arm]]


@dataclass(frozen=True, slots=True)
class Job:
    """How answers are made."""

    way: str  # engine or replay
    model: ChosenModel
    settings: Settings
    longest: int  # tokens of an answer
    workers: int

    def grade(self, source: Source, wanted: Wanted, terminal: Terminal) -> Iterator[tuple[Video, Outcome]]:
        """Every video's answers in its arms, in order.

        Raises:
            Unsupported: this way does not know the model. OutOfResources: a worker died.
        """
        if self.workers == 1 or len(wanted) == 1:
            way = load_way(self, terminal)
            for video, frames in source.read(list(wanted)):
                yield video, _outcome(way, video, wanted[video], frames)
            return
        waiting: deque[tuple[Video, Future[Outcome]]] = deque()
        context = multiprocessing.get_context("spawn")
        places = context.SimpleQueue()
        for place in environments(self.model, self.settings.model.device, self.workers, None):
            places.put(place)
        with ProcessPoolExecutor(self.workers, context, initializer=_start, initargs=(self, source, places)) as pool:
            try:
                for video, arms in wanted.items():
                    waiting.append((video, pool.submit(_work, video, arms)))
                    if len(waiting) > 2 * self.workers:
                        yield _taken(*waiting.popleft())
                while waiting:
                    yield _taken(*waiting.popleft())
            except BrokenProcessPool as error:
                raise OutOfResources(
                    "a worker process died, of memory most likely",
                    "Give fewer --workers; with -o the same command goes on from here.",
                ) from error
            finally:
                for _, future in waiting:
                    future.cancel()


def load_way(job: Job, terminal: Terminal) -> Way:
    """The model, ready to grade."""
    from purekv_cli.eval.engine_way import EngineWay
    from purekv_cli.eval.replay import ReplayWay

    stages = terminal.stages()
    try:
        adapter = job.model.load(job.settings.model.device, terminal, stages.update)  # type: ignore[arg-type]
    finally:
        stages.clear()
    return EngineWay(adapter, job.longest) if job.way == "engine" else ReplayWay(adapter)


def _outcome(way: Way, video: Video, arms: Sequence[Arm], frames: Frames | PureKVError) -> Outcome:
    if isinstance(frames, PureKVError):
        return str(frames)
    try:
        return list(way.grade(video, arms, frames))
    except PureKVError as error:
        return str(error)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return "out of memory: sample fewer frames (--max-frames)"
        raise


def _taken(video: Video, future: Future[Outcome]) -> tuple[Video, Outcome]:
    return video, future.result()


_worker: Any = None  # (way, source) of a worker process


def _start(job: Job, source: Source, places: Any) -> None:
    global _worker
    os.environ.update(places.get())  # of several GPUs one
    import torch

    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C reaches the whole group: no tracebacks
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // job.workers))
    _worker = load_way(job, Terminal(quiet=True)), source


def _work(video: Video, arms: Sequence[Arm]) -> Outcome:
    way, source = _worker
    [(_, frames)] = source.read([video])
    return _outcome(way, video, arms, frames)
