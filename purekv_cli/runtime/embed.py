"""A prompt as embeddings, the vision tower's features in place: done once per clip, whatever is asked about it."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from purekv_cli.errors import UsageError
from purekv_cli.models.base import Inputs
from purekv_cli.runtime.vision import tower_features
from purekv_cli.runtime.vision_weights import read_tower
from purekv_cli.runtime.weights import Unsupported


@dataclass(frozen=True, slots=True)
class Looked:
    """What the vision tower makes of a clip."""

    features: Tensor  # [V, hidden], in frame-major order
    deepstack: tuple[Tensor, ...] = ()  # [V, hidden] each, added to the video tokens above the first decoder layers


def embed_clip(model: PreTrainedModel, inputs: Inputs) -> Looked:
    """Embeddings of all prompt tokens, [1, N, hidden], on the device of the embedding layer, and the deepstack."""
    table = model.get_input_embeddings()
    device = next(table.parameters()).device
    embeds: Tensor = table(inputs.input_ids.clamp(min=0).to(device))  # below 0: stands for video, and is no word
    if not len(inputs.layout.video):
        return Looked(embeds)
    looked = look(model, inputs)
    filled = inputs.layout.video if inputs.filled is None else inputs.filled
    embeds[0, filled.to(embeds.device)] = looked.features.to(embeds.device, embeds.dtype)
    if "input_features" in inputs.features:
        embeds[0, inputs.layout.audio.to(embeds.device)] = listen(model, inputs).to(embeds.device, embeds.dtype)
    return Looked(embeds, tuple(each.to(embeds.device, embeds.dtype) for each in looked.deepstack))


def embed_prompt(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    """The embeddings alone.

    Raises:
        UsageError: the model's decoder takes more than embeddings.
    """
    embedded = embed_clip(model, inputs)
    if embedded.deepstack:
        raise UsageError(
            "embeddings are not all that this model's decoder takes", "Use `purekv ask`, or another model."
        )
    return embedded.features


def video_features(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    """What the vision tower and its merger make of the frames, [V, hidden], in frame-major order."""
    return look(model, inputs).features


def look(model: PreTrainedModel, inputs: Inputs) -> Looked:
    """Run the vision tower.

    Features that are there already (`vision_stream`) are taken; else the fast tower runs where it knows the model
    (`vision.explain`), else the stock one.
    """
    features = inputs.features
    if "video_features" in features:
        return Looked(features["video_features"])
    try:
        known_tower = read_tower(model)
    except Unsupported:
        return _stock(model, inputs)
    return Looked(tower_features(known_tower, features["pixel_values_videos"], features["video_grid_thw"]))


def listen(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    """What the audio encoder makes of a clip's sound, [A, hidden], where it is one of its own."""
    encoder: Any = model
    names = ("input_features", "feature_attention_mask")
    out = encoder.get_audio_features(**{name: inputs.features[name].to(model.device) for name in names})
    heard: Tensor = out.last_hidden_state
    return heard


def _stock(model: PreTrainedModel, inputs: Inputs) -> Looked:
    """Of the model's own tower; families without one for video see frames as images."""
    given = {name: tensor.to(model.device) for name, tensor in inputs.features.items()}
    is_video = "pixel_values_videos" in given
    name = "get_video_features" if is_video else "get_image_features"
    # The inner model's names all that it takes; the outer one's may pass it on unnamed.
    holder: Any = model.base_model if hasattr(model.base_model, name) else model
    tower = getattr(holder, name)
    pixels = given.pop("pixel_values_videos" if is_video else "pixel_values")  # which not all releases name so
    known = inspect.signature(tower).parameters
    out = tower(pixels, **{name: tensor for name, tensor in given.items() if name in known})
    stacked = getattr(out, "deepstack_features", None) or ()
    seen = _joined(getattr(out, "pooler_output", out))
    if (kept := inputs.features.get("video_compression_mask")) is not None:
        seen = seen[kept.to(seen.device)]
    if inputs.filled is not None and len(seen) < len(inputs.filled):  # older releases add the newline later
        seen = torch.cat([seen, holder.image_newline[None].to(seen)])
    return Looked(seen, tuple(_joined(each) for each in stacked))


def _joined(features: Any) -> Tensor:
    """[V, hidden], of one tensor or of one a clip: releases of transformers differ."""
    whole = features if isinstance(features, Tensor) else torch.cat(list(features))
    return whole.flatten(0, -2)


def embed_tokens(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Embeddings of text, [1, n, hidden]."""
    table = model.get_input_embeddings()
    embeds: Tensor = table(ids.to(next(table.parameters()).device))
    return embeds
