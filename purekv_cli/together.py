"""Several videos in one question: each is planned by itself, and the plan of the first carries the others."""

import math
from collections.abc import Sequence
from dataclasses import replace

from purekv_cli.errors import UsageError
from purekv_cli.models.geometry import ModelGeometry, one_video
from purekv_cli.pipeline import TEXT_TOKENS, Listener, Plan, kept_of, make_plan
from purekv_cli.settings import Settings
from purekv_cli.video.info import VideoInfo


def plan_together(
    infos: Sequence[VideoInfo],
    geometry: ModelGeometry,
    model_names: Sequence[str],
    settings: Settings,
    bytes_per_value: int = 2,
    room: int | None = None,
    tell: Listener | None = None,
) -> Plan:
    """As `make_plan`, for one video or several: clip settings hold for each, the budget for all of them.

    Args:
        room: of video tokens in all; each video gets its part of what it asks for.

    Raises:
        UsageError: a model that takes one video, or hears; what `make_plan` finds, with the video's name.
    """
    if len(infos) == 1:
        return make_plan(infos[0], geometry, model_names, settings, bytes_per_value, room, tell)
    if not geometry.several:
        raise one_video(model_names[0])
    for flag, wish in (("--audio", settings.sound.audio), ("--subs", settings.subtitles.subs)):
        if wish:
            raise UsageError(f"{flag} is for one video a question", f"Leave out {flag}, or --also.")
    plans = []
    for info in infos:
        try:
            plans.append(make_plan(info, geometry, model_names, settings, bytes_per_value, tell=tell))
        except UsageError as error:
            raise UsageError(f"{info.path.name}: {error}", error.hint) from None
    wanted = sum(plan.video_tokens for plan in plans)
    if room is not None and room < wanted:
        shares = [max(1, room * plan.video_tokens // wanted) for plan in plans]
        plans = [
            make_plan(plan.info, geometry, model_names, settings, bytes_per_value, share)
            for plan, share in zip(plans, shares, strict=True)
        ]
    first, *others = plans
    prompt = sum(math.prod(plan.grid) for plan in plans) + TEXT_TOKENS
    kept = kept_of(first.method, prompt, geometry.kv_bytes(1, bytes_per_value))
    return replace(first, prompt_tokens=prompt, kept_tokens=kept, also=tuple(others))
