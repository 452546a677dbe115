"""The answerer of a batch: probe, plan and decode in any thread; vision, prefill and answers in one.

A question is always read as a session reads it, so an answer does not depend on which other questions were asked or
where an earlier run broke off. With a policy that never looks at the question, questions of a clip share its prefill.
On a GPU answers, also of different clips, are generated together: to the last bit those of each alone.
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from purekv_cli.around import Around
from purekv_cli.batch.loop import Check
from purekv_cli.batch.outcome import answered
from purekv_cli.commands.model import ChosenModel, choose_model
from purekv_cli.errors import OutOfResources
from purekv_cli.kernels import allow
from purekv_cli.memory import free_memory
from purekv_cli.pipeline import Plan, Run, make_plan, with_text
from purekv_cli.runtime.events import Answer, Event
from purekv_cli.settings import Settings
from purekv_cli.terminal import Terminal
from purekv_cli.video.decode import decode
from purekv_cli.video.frames import Frames
from purekv_cli.video.probe import probe
from purekv_cli.video.source import Local, local

if TYPE_CHECKING:
    from purekv_cli.runtime.sampling import Generation
    from purekv_cli.runtime.session import Session
    from purekv_cli.runtime.together import Together


@dataclass(frozen=True, slots=True)
class VideoSpec:
    """How the workers of a run answer."""

    settings: Settings
    timeout: float | None  # s a video
    decoders: int
    together: int = 1  # answers generated at once

    def build(self) -> "VideoAnswerer":
        return VideoAnswerer(self.settings, self.decoders, self.together)


@dataclass(frozen=True, slots=True)
class Clip:
    """Decoded, and how it will be answered about."""

    plan: Plan
    frames: Frames

    @property
    def damage(self) -> str | None:
        """What was wrong with the file, and where the plan gave less than was asked for."""
        notes = (self.frames.damage, self.plan.sample.note, self.plan.around.note)
        return "; ".join(note for note in notes if note) or None


class VideoAnswerer:
    """A loaded model. Implements `loop.Answerer`."""

    def __init__(self, settings: Settings, decoders: int, together: int = 1) -> None:
        from purekv_cli.runtime.sampling import Generation

        quiet, wish = Terminal(quiet=True), settings.model
        self._settings, self._decoders, self._most = settings, decoders, together
        self._generation = Generation(wish.max_tokens, wish.temperature, wish.top_p, wish.seed)
        self._group: _Group | None = None
        self._tried = together < 2  # whether there can be a group
        self._model: ChosenModel = choose_model(settings, quiet)
        self._room = self._model.room()  # before the weights are there, which it leaves room for
        allow(settings.method.kernels)
        self._adapter = self._model.load(settings.model.device, quiet, lambda event: None)
        self.facts = self._model.describe()

    def read(self, clip: tuple[str, float | None, float | None], check: Check, *, ahead: bool) -> Clip:
        """Errors: UnreadableInput, UsageError for a range outside the video, OutOfResources, TimedOut."""
        video, start, end = clip
        wanted = self._settings.clip
        if start is not None or end is not None:
            wanted = replace(wanted, start=start, end=end)
        settings = replace(self._settings, clip=wanted)
        with local(video, lambda done, total: check(), offline=settings.model.offline) as found:
            return self._read(found, settings, check, ahead)

    def _read(self, found: Local, settings: Settings, check: Check, ahead: bool) -> Clip:
        info = probe(found)
        check()
        model, room = self._model, self._room or None
        listen = lambda event: check()  # noqa: E731
        plan = make_plan(info, model.geometry, model.names, settings, model.dtype.itemsize, room, listen)
        plan = with_text(plan, settings.subtitles, model.source.folder)
        if ahead:
            self._check_room(plan)
        threads = 1 if ahead and self._decoders > 1 else None  # several decoders fill the cores with one each
        frames = decode(info, plan.sample, plan.size, lambda done, total: check(), threads)
        return Clip(plan, Run(plan).with_sound(frames))

    def open(self, read: Clip, question: str) -> "_Asked":
        from purekv_cli.runtime.engine import Engine

        began = time.perf_counter()
        around = read.plan.around
        inputs = self._adapter.prepare(read.frames, around.question(question))
        spent = {"decode_seconds": read.frames.decode_seconds, "prepare_seconds": time.perf_counter() - began}
        session = Engine(self._adapter, read.plan.method).open(inputs, **spent)
        session.aside = around.before
        return _Asked(session, self._generation, around, read.damage, self._group)

    def group(self) -> "_Group | None":
        """Made when it is first asked for: several prompts are at hand."""
        if not self._tried:
            from purekv_cli.runtime.together import Together, shared_decoder

            self._tried = True
            decoder = shared_decoder(self._adapter, self._most)
            if decoder is not None:
                self._group = _Group(Together(self._adapter, decoder, self._generation, self._most))
        return self._group

    def _check_room(self, plan: Plan) -> None:
        """Several clips like this one must fit, because others are decoded at the same time."""
        free, need = free_memory(), len(plan.sample.times) * math.prod(plan.size) * 3
        if free is not None and need * (self._decoders + self._most) > free // 2:
            raise OutOfResources("no room to decode this clip beside others", "It is read when its turn comes.")

    def usable(self) -> bool:
        if self._adapter.device.type != "cuda":
            return True
        import torch

        try:
            torch.cuda.synchronize(self._adapter.device)
            torch.cuda.empty_cache()
        except RuntimeError:
            return False
        return True


class _Group:
    """Answers in the making. See `loop.Group`."""

    def __init__(self, together: "Together") -> None:
        self._together = together
        self._damage: list[str | None] = []

    @property
    def room(self) -> bool:
        return self._together.room

    def take(self, session: "Session", question: str, damage: str | None, check: Check) -> None:
        """Errors: TimedOut, OutOfResources."""
        for _ in self._together.take(session, question):
            check()
        self._damage.append(damage)

    def generate(self) -> Iterator[tuple[int, dict[str, Any]] | None]:
        damage, self._damage = self._damage, []
        for ended in self._together.generate():
            yield ended and (ended[0], answered(ended[1], damage[ended[0]]))

    def forget(self) -> None:
        self._together.forget()
        self._damage = []


@dataclass(frozen=True, slots=True)
class _Asked:
    _session: "Session"
    _generation: "Generation"
    _around: Around
    _damage: str | None
    _group: _Group | None

    def ask(self, question: str, check: Check) -> dict[str, Any]:
        """The record's fields. Errors: TimedOut, OutOfResources."""
        events = self._session.ask(self._around.question(question), self._generation)
        return answered(_last(events, check), self._damage)

    def join(self, question: str, check: Check) -> None:
        """Errors: as `ask`."""
        if self._group is None:
            raise RuntimeError("there is no group to join")
        self._group.take(self._session, self._around.question(question), self._damage, check)


def _last(events: Iterable[Event], check: Check) -> Answer:
    for event in events:
        if isinstance(event, Answer):
            return event
        check()
    raise RuntimeError("the engine ended without an answer")
