"""From what a user of transformers passes to `generate` or `forward`: where the video lies, and its right positions."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from purekv_cli.errors import UsageError
from purekv_cli.method.layout import VideoLayout
from purekv_cli.models.positions import VisionTokens, mrope_positions
from purekv_cli.runtime.prompt import Prompt


def describe(
    model: PreTrainedModel, ids: Tensor, given: Mapping[str, Any], layouts: Sequence[VideoLayout] = ()
) -> tuple[Prompt, Tensor | None]:
    """The prompts behind token ids, and their rotary positions.

    Args:
        ids: int64 [B, N].
        given: the model's other inputs, of which mask, grids and seconds are read.
        layouts: where the video lies in each prompt; empty: found by the model's video token.

    Returns:
        The prompts, and int64 [4, B, N]: the text row, then t, h, w; None for models with plain positions.
    """
    if layouts:
        _check(layouts, ids)
        return Prompt.of_layouts(layouts, ids.device), None
    mask = given.get("attention_mask")
    mask = mask if mask is not None and mask.shape == ids.shape else None
    config: Any = model.config
    vision = getattr(config, "vision_config", None)
    names = ("video_token_id", "video_token_index", "image_token_id")  # the last where frames are images to the model
    video = next((getattr(config, name) for name in names if getattr(config, name, None) is not None), None)
    merge = getattr(vision, "spatial_merge_size", 1)
    grids = given.get("video_grid_thw")
    sizes = [] if grids is None else [(t, h // merge, w // merge) for t, h, w in grids.tolist()]
    audio = getattr(config, "audio_token_id", None)
    prompt = Prompt.of_ids(ids, video, mask, sizes, audio)
    if audio is not None and bool((ids == audio).any()):
        return prompt, _with_sound(model, ids, given, mask, prompt)
    if not hasattr(model.base_model, "rope_deltas"):
        return prompt, None
    if grids is not None and config.model_type.startswith("qwen3"):  # time stamps part the frames: one block each
        grids = grids.repeat_interleave(grids[:, 0], 0).clone()
        grids[:, 0] = 1
    seconds = given.get("second_per_grid_ts", given.get("video_second_per_grid"))
    # Qwen2.5 counts time in seconds; elsewhere a grid step is one position.
    paces = {"qwen2_5_vl": (vision, "tokens_per_second"), "qwen2_5_omni_thinker": (config, "position_id_per_seconds")}
    pace = float(getattr(*paces[config.model_type], 1.0)) if config.model_type in paces else 1.0
    positions, following = mrope_positions(
        ids,
        VisionTokens(config.image_token_id, config.video_token_id, merge, pace),
        attention_mask=mask,
        image_grids=given.get("image_grid_thw"),
        video_grids=grids,
        seconds_per_grid=None if seconds is None else torch.as_tensor(seconds),
    )
    prompt.delta = (following - prompt.masks.valid.sum(-1))[:, None]
    return prompt, positions


def _with_sound(
    model: PreTrainedModel, ids: Tensor, given: Mapping[str, Any], mask: Tensor | None, prompt: Prompt
) -> Tensor:
    """Positions of a prompt with sound: the library's own, which are right."""
    library: Any = model
    lengths = given.get("feature_attention_mask")
    rotary, prompt.delta = library.get_rope_index(
        ids,
        image_grid_thw=given.get("image_grid_thw"),
        video_grid_thw=given.get("video_grid_thw"),
        attention_mask=torch.ones_like(ids) if mask is None else mask,
        use_audio_in_video=bool(given.get("use_audio_in_video")),
        audio_seqlens=given.get("audio_feature_lengths") if lengths is None else lengths.sum(-1),
        second_per_grids=given.get("video_second_per_grid"),
    )
    text = (prompt.masks.valid.long().cumsum(-1) - 1).clamp(min=0)
    return torch.cat([text[None], rotary])


def _check(layouts: Sequence[VideoLayout], ids: Tensor) -> None:
    longest = max(layout.length for layout in layouts)
    if len(layouts) != ids.shape[0] or longest != ids.shape[1]:
        raise UsageError(
            f"{len(layouts)} layouts of {longest} tokens do not describe {ids.shape[0]} prompts of {ids.shape[1]}",
            "Give one VideoLayout per prompt, of its own length without padding.",
        )
