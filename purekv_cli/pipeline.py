"""The whole path of one run: file -> facts -> frames to read -> plan -> decoded frames -> prompt -> answers.

`make_plan` needs no weights and decodes nothing, so a mistake or an absurd wish is found before any work. `Run` then
does the work and tells a listener how it goes; commands render that, nothing is printed here.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from purekv_cli.answers.times import Mention, mentions
from purekv_cli.around import NOTHING, Around, find_text
from purekv_cli.errors import UsageError
from purekv_cli.method.config import MethodConfig
from purekv_cli.models.geometry import ModelGeometry
from purekv_cli.presets import Preset, choose, clip_settings, method_config
from purekv_cli.runtime.events import Answer, Event, Progress, Stage
from purekv_cli.settings import ClipSettings, Settings, SubtitleSettings
from purekv_cli.video.audio import decode_sound
from purekv_cli.video.decode import decode
from purekv_cli.video.frames import Frames
from purekv_cli.video.info import VideoInfo
from purekv_cli.video.sample import Mode, SamplePlan, SampleSpec, sample
from purekv_cli.video.scenes import find_scenes

if TYPE_CHECKING:
    from purekv_cli.models.base import Adapter, Inputs
    from purekv_cli.runtime.sampling import Generation
    from purekv_cli.runtime.session import Session
    from purekv_cli.store.file import Kept
    from purekv_cli.store.shelf import Shelf

HEARING = "DAMO-NLP-SG/VideoLLaMA2.1-7B-AV"
TEXT_TOKENS = 40  # of a chat template and a question: plans are estimates, statistics count

Listener = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is decided before work begins."""

    info: VideoInfo
    sample: SamplePlan
    size: tuple[int, int]  # (height, width) frames are decoded to
    grid: tuple[int, int, int]  # (T, H, W) video tokens
    geometry: ModelGeometry
    preset: Preset
    method: MethodConfig
    prompt_tokens: int  # estimate: the text is counted when it is tokenised
    kept_tokens: int  # estimate
    bytes_per_value: int
    audio_tokens: int = 0  # of the clip's sound; an estimate where they depend on its length
    listens: bool = False  # to the clip's sound
    around: Around = NOTHING  # the questions
    also: tuple["Plan", ...] = ()  # further videos of the same prompt (`together.plan_together`)

    @property
    def video_tokens(self) -> int:
        return sum(math.prod(plan.grid) for plan in (self, *self.also))

    @property
    def origin(self) -> float:
        """What the model calls 0:00, in s of the video."""
        return 0.0 if self.geometry.stamped else self.sample.start

    @property
    def kv_bytes(self) -> tuple[int, int]:
        """(full, kept): an estimate."""
        full, kept = (self.geometry.kv_bytes(n, self.bytes_per_value) for n in (self.prompt_tokens, self.kept_tokens))
        return full, kept


def sample_spec(clip: ClipSettings, geometry: ModelGeometry) -> SampleSpec:
    """The sampling that settings ask for; a bare --frames means that many, evenly.

    A model that was trained on a number of frames gets as many of them, from the middles of equal parts of the clip.
    """
    bare = clip.frames is not None and clip.fps is None
    frames = clip.frames
    mode: Mode | None = clip.sample or ("uniform" if bare else None)
    if geometry.frames and clip.fps is None and mode == "scene":
        frames = frames or geometry.frames
    if geometry.frames and clip.fps is None and clip.sample is None:
        frames, mode = frames or geometry.frames, "middles"
    caps = [most for most in (clip.max_frames, geometry.max_frames) if most is not None]
    values = {
        "mode": mode,
        "fps": clip.fps,
        "frames": frames,
        "max_frames": min(caps, default=None),
        "start": clip.start,
        "end": clip.end,
        "group": geometry.temporal_patch,
    }
    return SampleSpec(**{name: value for name, value in values.items() if value is not None})  # type: ignore[arg-type]


def make_plan(
    info: VideoInfo,
    geometry: ModelGeometry,
    model_names: Sequence[str],
    settings: Settings,
    bytes_per_value: int = 2,
    room: int | None = None,
    tell: Listener | None = None,
) -> Plan:
    """Decide which frames are read, at which size, and what the cache will hold.

    Nothing is decoded, unless frames are to be chosen by scenes and `info` has none yet; those of the plan has them.

    Args:
        model_names: the model's name and aliases, for the choice of the preset.
        bytes_per_value: of the dtype the model runs in.
        room: video tokens that memory has room for; None: no bound.
        tell: how the search for scenes goes.

    Raises:
        UsageError: a preset, range, budget or cap that cannot be.
    """
    preset = choose(settings.method.preset, model_names)
    method = method_config(preset, settings.method, settings.model.seed)
    if method.propagate is not None and method.propagate.layer >= geometry.layers:
        raise UsageError(
            f"tokens cannot flow from layer {method.propagate.layer} on: the model has {geometry.layers} layers",
            f"Give --propagate a layer from 1 to {geometry.layers - 1}.",
        )
    clip = clip_settings(preset, settings.clip)
    if settings.sound.audio and not geometry.hears:
        raise UsageError("this model hears nothing", f"Leave out --audio, or take one that does, such as -m {HEARING}.")
    size = geometry.frame_size(info.height, info.width, clip.max_pixels)
    per_frame = geometry.tokens_per_frame(info.height, info.width, clip.max_pixels)
    spec = sample_spec(clip, geometry)
    if spec.mode == "scene" and not info.scenes:
        info = replace(info, scenes=find_scenes(info, spec, _told(tell, "scenes") if tell else None))
    chosen = sample(info, spec, per_frame, room)
    grid = geometry.grid(len(chosen.times), info.height, info.width, clip.max_pixels)
    seconds = chosen.end - chosen.start if info.audio else 0.0
    audio = geometry.tokens_of_sound(seconds) if settings.sound.audio else 0
    if audio and geometry.audio_rate and seconds > geometry.audio_seconds:
        unheard = f"of the sound, the model hears the first {geometry.audio_seconds:g} s"
        chosen = replace(chosen, note="; ".join(note for note in (chosen.note, unheard) if note))
    prompt = math.prod(grid) + audio + TEXT_TOKENS
    kept = kept_of(method, prompt, geometry.kv_bytes(1, bytes_per_value))
    listens = settings.sound.audio
    return Plan(info, chosen, size, grid, geometry, preset, method, prompt, kept, bytes_per_value, audio, listens)


def kept_of(method: MethodConfig, prompt: int, entry_bytes: int, text: int = 1) -> int:
    """Entries that a method keeps of a prompt: an estimate.

    Args:
        entry_bytes: of one token over all layers and heads.
        text: tokens known to stay; the engine knows them all, and refuses a budget that does not hold them.

    Raises:
        UsageError: the budget does not hold them.
    """
    return prompt if method.policy == "dense" else method.budget.entries(prompt, text, entry_bytes)


def with_text(plan: Plan, subtitles: SubtitleSettings, folder: Path | None, form: str = "") -> Plan:
    """The plan with text around its questions: kept like all text, so the budget must hold it.

    Where the clip is pruned before the question is read, the text comes on top of what stayed.

    Args:
        folder: the checkpoint's files, for its tokenizer; None: not fetched yet, so that tokens are estimated.
        form: what is said of the answer's form.

    Raises:
        UnreadableInput: subtitles that cannot be read. UsageError: the budget does not hold them.
    """
    around = find_text(plan.info, (plan.sample.start, plan.sample.end), plan.origin, subtitles, form, folder)
    plan = replace(plan, around=around)
    if not around.tokens:
        return plan
    prompt, kept = plan.prompt_tokens + around.tokens, plan.kept_tokens + around.tokens
    if not shares_prefill(plan.method):
        entry = plan.geometry.kv_bytes(1, plan.bytes_per_value)
        try:
            kept = kept_of(plan.method, prompt, entry, around.tokens + TEXT_TOKENS)
        except UsageError as error:
            less = ", or fewer tokens of subtitles (--subs-tokens)." if around.before else "."
            raise UsageError(str(error), error.hint.removesuffix(".") + less) from None
    return replace(plan, prompt_tokens=prompt, kept_tokens=kept)


def _told(tell: Listener, stage: Stage = "decode") -> Callable[[int, int], None]:
    return lambda done, total: tell(Progress(stage, done, total))


def shares_prefill(method: MethodConfig) -> bool:
    """See `policies.shares_prefill`, which needs torch."""
    from purekv_cli.method import policies

    return policies.shares_prefill(method)


@dataclass(slots=True)
class Run:
    """One video, its frames, and the questions asked so far."""

    plan: Plan
    frames: Frames | None = None
    others: tuple[Frames, ...] = ()  # of the plan's further videos
    answers: list[Answer] = field(default_factory=list)
    session: "Session | None" = None  # the engine's, as the last answer left it
    shelf: "Shelf | None" = None  # where what is kept of the clip outlives this process; None: nowhere
    recalled: "Kept | None" = None  # what an earlier run left there

    def recall(self) -> bool:
        """Whether an earlier run kept this clip: then nothing needs to be decoded."""
        if self.shelf is not None and self.recalled is None:
            self.recalled = self.shelf.recall()
        return self.recalled is not None

    def keep(self) -> None:
        """Leave what questions share to later runs."""
        if self.shelf is not None and self.session is not None and self.frames is not None:
            self.shelf.keep(self.session, self.frames)

    def decode(self, tell: Listener) -> Frames:
        """Read the frames of the plan, before a model is there: what cannot be read is said at once."""
        if self.frames is None:
            frames = decode(self.plan.info, self.plan.sample, self.plan.size, on_frame=_told(tell))
            self.frames = self.with_sound(frames)
            self.others = tuple(decode(o.info, o.sample, o.size, on_frame=_told(tell)) for o in self.plan.also)
        return self.frames

    def ask(
        self,
        adapter: "Adapter",
        questions: Sequence[str],
        generation: "Generation",
        tell: Listener,
        again: Callable[[Answer], str | None] | None = None,
    ) -> list[Answer]:
        """Answer the questions in turn; a policy that ignores the question shares one prefill among them.

        It reads the clip alone then, also for one question, so that an answer depends on nothing else that is asked.

        Args:
            again: what else to ask after an answer, as the next turn of the same talk; None: nothing.
        """
        full = self.plan.around.question
        session = self.open(adapter, full(questions[0]), tell, once=len(questions) == 1)
        turn = session.first if session.once and not session.engine.shares_prefill else session.ask
        for question in questions:
            last = self._hear(turn(full(question), generation), question, tell)
            while again and (more := again(last)) is not None:
                last = self._hear(session.follow_up(more, generation), more, tell)
        return self.answers

    def _hear(self, events: Iterator[Event], question: str, tell: Listener) -> Answer:
        """The answer that ends the events, under the question as it was asked."""
        for event in events:
            if isinstance(event, Answer):
                event = replace(event, question=question)
                self.answers.append(event)
            tell(event)
        return self.answers[-1]

    def mentions(self, answer: Answer) -> list[Mention]:
        """The times that the answer speaks of, held against the clip; of several clips nobody knows which is meant."""
        if self.plan.also:
            return []
        span = self.plan.sample.start, self.plan.sample.end
        seen = self.plan.sample.times if self.frames is None else self.frames.times.tolist()
        return mentions(answer.text, self.plan.origin, span, seen)

    def open(self, adapter: "Adapter", question: str, tell: Listener, *, once: bool = False) -> "Session":
        """The engine's session about the clip, whose inputs ask `question`; `once`: nothing else will be asked.

        Frames that were not decoded before are now, while a GPU's vision tower works on the first of them; unless an
        earlier run kept what the session needs.
        """
        from purekv_cli.runtime.engine import Engine
        from purekv_cli.runtime.session import Session

        engine = Engine(adapter, self.plan.method)
        if self.recalled is not None and self.shelf is not None:
            self.session = Session.resume(
                engine,
                self.recalled.snapshot,
                lambda: self._watch(adapter, question, lambda event: None)[0],
                recall_seconds=self.shelf.seconds,
            )
            return self.session
        inputs, spent = self._watch(adapter, question, tell)
        self.session = Session(engine, inputs, **spent, once=once)
        self.session.aside = self.plan.around.before
        return self.session

    def _watch(self, adapter: "Adapter", question: str, tell: Listener) -> tuple["Inputs", dict[str, float]]:
        """The inputs of the clip and a question, and the seconds they took."""
        from purekv_cli.runtime.vision_stream import decode_and_embed

        if self.plan.also:
            clips = [self.decode(tell), *self.others]
            began = time.perf_counter()
            inputs = adapter.prepare_several(clips, question)
            decoding = sum(frames.decode_seconds for frames in clips)
            return inputs, {"decode_seconds": decoding, "prepare_seconds": time.perf_counter() - began}
        frames, features = self.frames, None
        if frames is None:
            plan = self.plan
            frames, features = decode_and_embed(adapter, plan.info, plan.sample, plan.size, _told(tell))
            self.frames = frames = self.with_sound(frames)
        began = time.perf_counter()
        inputs = adapter.prepare(frames, question, features)
        return inputs, {"decode_seconds": frames.decode_seconds, "prepare_seconds": time.perf_counter() - began}

    def with_sound(self, frames: Frames) -> Frames:
        """The frames with the sound of their range, if the plan listens to it."""
        if not self.plan.listens:
            return frames
        began = time.perf_counter()
        sound = decode_sound(self.plan.info, self.plan.sample.start, self.plan.sample.end)
        spent = frames.decode_seconds + time.perf_counter() - began
        damage = "; ".join(note for note in (frames.damage, sound.damage) if note)
        return replace(frames, sound=sound, damage=damage or None, decode_seconds=spent)

    @property
    def damage(self) -> tuple[str, ...]:
        """What was wrong with the file, and where the plan gave less than was asked for."""
        plan, seen = self.plan, self.frames or self.recalled
        notes = [seen.damage if seen else plan.info.damage, plan.sample.note, plan.around.note]
        for other, frames in zip(plan.also, self.others, strict=False):
            notes += [f"{other.info.path.name}: {note}" for note in (frames.damage, other.sample.note) if note]
        return tuple(note for note in notes if note)
