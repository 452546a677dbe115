"""Every flag, once: name, type, help and environment variable. Verbs take whole groups of them.

A group is a dataclass whose fields are the flags; `with_flags` unfolds it into the parameters that Typer reads and
folds the parsed values back. An unset flag is None, so that settings.py can ask the next source for it.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from purekv_cli.commands.completion import offer
from purekv_cli.errors import UsageError
from purekv_cli.settings import parse_time
from purekv_cli.terminal import ReaderLeft


class Sample(StrEnum):
    uniform = "uniform"
    fps = "fps"
    keyframes = "keyframes"
    scene = "scene"


class Observe(StrEnum):
    question = "question"
    template = "template"
    video = "video"
    all = "all"


class Kernels(StrEnum):
    auto = "auto"
    reference = "reference"


class DType(StrEnum):
    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


def _flag(*names: str, help: str, panel: str, **more: Any) -> Any:
    env = "PUREKV_" + names[0].partition("/")[0].lstrip("-").replace("-", "_").upper()
    more = {"envvar": env, "show_envvar": False, **more}
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)


_clip = functools.partial(_flag, panel="Clip")
_model = functools.partial(_flag, panel="Model")
_method = functools.partial(_flag, panel="Method")
_cache = functools.partial(_flag, panel="Cache on disk")
_output = functools.partial(_flag, panel="Output")
_TIME: dict[str, Any] = {"parser": parse_time, "metavar": "TIME"}


@dataclass(frozen=True, slots=True)
class ClipFlags:
    """Which frames are read."""

    start: Annotated[float | None, _clip("--start", help="Where the clip begins: 90, 1:30 or 1:02:03.5.", **_TIME)] = (
        None
    )
    end: Annotated[float | None, _clip("--end", help="Where it ends.", **_TIME)] = None
    fps: Annotated[float | None, _clip("--fps", help="Frames a second to sample.", metavar="RATE")] = None
    frames: Annotated[int | None, _clip("--frames", help="Number of frames to sample.", metavar="N")] = None
    max_frames: Annotated[int | None, _clip("--max-frames", help="Never more frames than this.", metavar="N")] = None
    max_pixels: Annotated[
        int | None, _clip("--max-pixels", help="Pixels a frame is scaled down to (model's own bound).", metavar="N")
    ] = None
    sample: Annotated[Sample | None, _clip("--sample", help="How frames are chosen; scene: every scene is seen.")] = (
        None
    )


@dataclass(frozen=True, slots=True)
class SoundFlag:
    """For verbs whose model may hear the clip."""

    audio: Annotated[bool | None, _clip("--audio", help="Let the model hear the clip too, if it can.")] = None


@dataclass(frozen=True, slots=True)
class SubtitleFlags:
    """For verbs whose model may read what is said."""

    subs: Annotated[
        str | None,
        _clip(
            "--subs", help="Subtitles for the model to read: a file, or auto for the video's own.", metavar="FILE|auto"
        ),
    ] = None
    subs_tokens: Annotated[
        int | None, _clip("--subs-tokens", help="At most so many tokens of them (default: 4096).", metavar="N")
    ] = None


@dataclass(frozen=True, slots=True)
class ModelFlags:
    """Which model answers, and where it runs."""

    model: Annotated[
        str | None,
        _model(
            "--model",
            "-m",
            help="auto, demo, 3b, 7b, 32b, 72b, a hub name or a folder (default: auto).",
            metavar="NAME",
        ),
    ] = None
    revision: Annotated[str | None, _model("--revision", help="Branch, tag or commit on the hub.", metavar="REV")] = (
        None
    )
    dtype: Annotated[DType | None, _model("--dtype", help="Precision of the weights (default: auto).")] = None
    device: Annotated[
        str | None, _model("--device", help="auto, cpu, cuda, cuda:1 (default: auto).", metavar="NAME")
    ] = None
    offline: Annotated[bool | None, _model("--offline", help="Never touch the network.")] = None
    max_tokens: Annotated[
        int | None, _model("--max-tokens", help="Length limit of an answer (default: 256).", metavar="N")
    ] = None
    temperature: Annotated[
        float | None, _model("--temperature", help="0 takes the likeliest token (default), more draws.", metavar="T")
    ] = None
    top_p: Annotated[
        float | None, _model("--top-p", help="Draw from the likeliest tokens of this total (default: 1).", metavar="P")
    ] = None
    seed: Annotated[int | None, _model("--seed", help="Seed of everything random (default: 0).", metavar="N")] = None


@dataclass(frozen=True, slots=True)
class MethodFlags:
    """How the cache is pruned."""

    budget: Annotated[
        str | None,
        _method("--budget", help="Cache to keep: 0.2, 20%, 4096t or 512MiB (default: the preset).", metavar="AMOUNT"),
    ] = None
    preset: Annotated[
        str | None, _method("--preset", help="Preset by name or file (default: the model's own).", metavar="NAME|FILE")
    ] = None
    policy: Annotated[
        str | None, _method("--policy", help="Pruning policy; `purekv policies` lists them.", metavar="NAME")
    ] = None
    dense: Annotated[bool | None, _method("--dense", help="No pruning, no sparse attention: the baseline.")] = None
    kernels: Annotated[Kernels | None, _method("--kernels", help="Which kernels may run (default: auto).")] = None
    observe: Annotated[
        Observe | None,
        _method(
            "--observe",
            help="Whose attention is read. `template` (the chat template's tokens, no question) and `video` (its last "
            "rows) let questions share a prefill.",
        ),
    ] = None
    propagate: Annotated[
        str | None,
        _method(
            "--propagate",
            help="From a layer on only this share of the tokens flows, or off (default: the preset).",
            metavar="LAYER:SHARE",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class CacheFlags:
    """Whether what is kept of a clip outlives the process."""

    cache: Annotated[
        bool | None,
        _cache(
            "--cache/--no-cache",
            help="Keep the pruned cache on disk for later questions about the clip (default: where they can share it, "
            "as with --observe template).",
        ),
    ] = None
    cache_limit: Annotated[
        str | None,
        _cache("--cache-limit", help="Disk that all of them may take (default: 10GiB).", metavar="SIZE"),
    ] = None


@dataclass(frozen=True, slots=True)
class OutputFlags:
    """What is shown and written."""

    json: Annotated[bool | None, _output("--json", help="One JSON object on stdout instead of text.")] = None
    stats: Annotated[bool | None, _output("--stats", help="Show memory and times on stderr.")] = None
    report: Annotated[
        Path | None, _output("--report", help="Write a report when done: .json, .md or .html.", metavar="FILE")
    ] = None
    no_stream: Annotated[bool | None, _output("--no-stream", help="Print the answer when it is complete.")] = None
    quiet: Annotated[bool | None, _output("--quiet", help="Only the answer, and errors.")] = None
    verbose: Annotated[bool | None, _output("--verbose", "-v", help="More detail, and tracebacks.")] = None
    dry_run: Annotated[
        bool | None, _output("--dry-run", help="Show the plan and stop before any work.", envvar=None)
    ] = None


@dataclass(frozen=True, slots=True)
class JsonFlag:
    """For verbs whose answer is a table."""

    json: Annotated[bool | None, _output("--json", help="One JSON object instead of a table.")] = None


def with_flags(verb: Callable[..., None]) -> Callable[..., None]:
    """Unfold a verb's keyword-only groups of flags into the parameters that Typer reads, and fold the values back."""
    hints = get_type_hints(verb, include_extras=True)
    signature = inspect.signature(verb).parameters.values()
    own = [p.replace(annotation=hints[p.name]) for p in signature if p.kind is not p.KEYWORD_ONLY]
    groups = {p.name: hints[p.name] for p in signature if p.kind is p.KEYWORD_ONLY}
    flags = [
        inspect.Parameter(
            flag.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=flag.default,
            annotation=get_type_hints(group, include_extras=True)[flag.name],
        )
        for group in groups.values()
        for flag in fields(group)
    ]

    offer([*own, *flags])

    @functools.wraps(verb)
    def run(**values: Any) -> None:
        folded = {
            name: group(**{flag.name: values.pop(flag.name) for flag in fields(group)})
            for name, group in groups.items()
        }
        try:
            verb(**values, **folded)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise ReaderLeft from error

    run.__signature__ = inspect.Signature(own + flags)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in own + flags}
    return run


def at_least_one(question: str | None, more: list[str] | None) -> tuple[str, ...]:
    """The questions of a command line, in the order they were asked."""
    questions = tuple(q.strip() for q in [question or "", *(more or [])] if q.strip())
    if not questions:
        raise UsageError("there is no question", 'Ask one: purekv ask VIDEO "what happens?"')
    return questions
