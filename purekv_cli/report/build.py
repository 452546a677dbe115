"""From a finished run to the Record that reports are rendered from."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from PIL import Image

from purekv_cli.pipeline import Plan, Run
from purekv_cli.report.machine import device_name, in_words, versions
from purekv_cli.report.record import Record
from purekv_cli.report.units import clock, size, times
from purekv_cli.video.frames import Frames
from purekv_cli.video.info import VideoInfo

STRIP = 8  # frames shown
STRIP_WIDTH = 240  # px


def video_facts(info: VideoInfo) -> dict[str, Any]:
    """What probing found, as plain values; the times of thousands of frames are told as counts."""
    return {
        "path": info.source or str(info.path),
        "kind": info.kind,
        "container": info.container,
        "codec": info.codec,
        "pixel_format": info.pixel_format,
        "bit_depth": info.bit_depth,
        "width": info.width,
        "height": info.height,
        "rotation": info.rotation,
        "duration": info.duration,
        "stated_duration": info.stated_duration,
        "frames": info.frame_count,
        "fps": info.average_fps,
        "variable_frame_rate": info.variable_frame_rate,
        "keyframes": len(info.keyframe_times),
        "keyframe_distance": info.duration / max(len(info.keyframe_times), 1),
        "audio": info.audio,
        "size_bytes": info.size_bytes,
        "damage": info.damage,
    }


def plan_facts(plan: Plan) -> dict[str, dict[str, Any]]:
    """The JSON sections "sample" and "method" of a plan."""
    sample = {
        "start": plan.sample.start,
        "end": plan.sample.end,
        "seconds_per_frame": plan.sample.seconds_per_frame,
        "frames": len(plan.sample.times),
        "height": plan.size[0],
        "width": plan.size[1],
        "grid": plan.grid,
        "times": plan.sample.times,
        "note": plan.sample.note,
        "counted_from": plan.origin,
        "subtitles": plan.around.subtitles,
    }
    method = asdict(plan.method) | {"budget": str(plan.method.budget)}
    return {
        "sample": sample,
        "method": method | {"preset": plan.preset.name, "calibrated": plan.preset.calibrated},
    }


def also_facts(plan: Plan) -> dict[str, Any]:
    """The JSON section "also" of a plan with further videos: of each, "video" and "sample"."""
    also = [{"video": video_facts(other.info), "sample": plan_facts(other)["sample"]} for other in plan.also]
    return {"also": also} if also else {}


def plan_line(plan: Plan, model: str) -> str:
    """One line for people: what will be read, by what, at which cost."""
    every = (plan, *plan.also)
    names = " + ".join(f"{p.info.path.name} {clock(p.sample.start)}-{clock(p.sample.end)}" for p in every)
    frames = " + ".join(f"{len(p.sample.times)} frames of {p.size[1]}x{p.size[0]}" for p in every)
    full, kept = plan.kv_bytes
    cache = f"KV cache about {size(full)}"
    if kept < full:
        cache += f" -> {size(kept)} ({times(full, kept)} smaller)"
    sound = f" and {plan.audio_tokens} of sound" if plan.audio_tokens else ""
    words = plan.around.subtitles or "a schema"
    text = f" and {plan.around.tokens} of text ({words})" if plan.around.tokens else ""
    parts = [
        names,
        f"{frames}, {plan.video_tokens} tokens{sound}{text}",
        model,
        f"policy {plan.method.policy}, budget {plan.method.budget}",
        cache,
    ]
    return " | ".join(parts)


def build(run: Run, model: dict[str, Any], verdicts: Sequence[dict[str, Any]] = ()) -> Record:
    """The record of a run whose questions are all answered.

    Args:
        verdicts: what else is told of each answer, where they were held against a schema.
    """
    import torch

    found, device = versions(), device_name(torch.device(model["device"]))
    plan, info = run.plan, run.plan.info
    facts = plan_facts(plan)
    calibrated = "" if plan.preset.calibrated else ", not calibrated"
    summary = (
        *(row for each in (plan, *plan.also) for row in _seen(each)),
        ("model", f"{model['name']}, {model['dtype']} on {model['device']}"),
        ("method", f"policy {plan.method.policy}, budget {plan.method.budget}, preset {plan.preset.name}{calibrated}"),
        ("device", device),
        ("versions", in_words(found)),
    )
    times_said = [{"times": [asdict(mention) for mention in run.mentions(answer)]} for answer in run.answers]
    return Record(
        title=" + ".join(each.info.path.name for each in (plan, *plan.also)),
        video=video_facts(info),
        sample=facts["sample"],
        model=model | {"device_name": device},
        method=facts["method"],
        answers=tuple(run.answers),
        found=tuple(said | more for said, more in zip(times_said, verdicts or [{}] * len(times_said), strict=True)),
        damage=run.damage,
        summary=summary,
        versions=found,
        also=tuple(also_facts(plan).get("also", ())),
        strip=tuple(strip(run.frames)) if run.frames else run.recalled.strip if run.recalled else (),
    )


def _seen(plan: Plan) -> tuple[tuple[str, str], ...]:
    """What is told to people of one video: (label, text)."""
    info, sample = plan.info, plan.sample
    often = f"one every {sample.seconds_per_frame:.3g} s{'' if sample.even else ' on average'}"
    rows, columns = plan.size
    return (
        (
            "video",
            f"{info.path.name}: {info.codec} in {info.container}, {info.width}x{info.height}, {clock(info.duration)}",
        ),
        (
            "frames",
            f"{len(sample.times)} of {columns}x{rows}, {clock(sample.start)} to {clock(sample.end)}, {often}",
        ),
    )


def strip(frames: Frames) -> Iterable[tuple[str, bytes]]:
    """A few frames, evenly spread: (time, JPEG)."""
    count = len(frames.pixels)
    shown = min(STRIP, count)
    for place in range(shown):
        index = (2 * place + 1) * count // (2 * shown)
        image = Image.fromarray(frames.pixels[index])
        image.thumbnail((STRIP_WIDTH, STRIP_WIDTH))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=80)
        yield clock(float(frames.times[index])), stream.getvalue()
