"""A released VideoLLaMA2 config.json, which is flat, as transformers' config with a part for each tower.

"videollama2_mistral" and the like are the config of that language model plus mm_* fields of LLaVA's kind.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

from transformers import (
    CLIPVisionConfig,
    MistralConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from purekv_cli.errors import ModelUnavailable
from purekv_cli.models.videollama2.beats import BeatsSizes
from purekv_cli.models.videollama2.geometry import FRAMES, connector_padding

VIDEO = -201  # stands for the video among token ids, as in the reference
AUDIO = "model.audio_tower."  # what the released names of the audio encoder's weights begin with
_LANGUAGE: dict[str, type[PretrainedConfig]] = {
    "videollama2": MistralConfig,
    "videollama2_mistral": MistralConfig,
    "videollama2_mixtral": MixtralConfig,
    "videollama2_qwen2": Qwen2Config,
}
_VISION: dict[str, type[PretrainedConfig]] = {
    "clip_vision_model": CLIPVisionConfig,
    "siglip_vision_model": SiglipVisionConfig,
}
_NOT_TEXT = {"model_type", "architectures", "torch_dtype", "dtype", "transformers_version", "_name_or_path"}


class VideoLlama2Config(PretrainedConfig):
    """Language model, vision tower, connector."""

    model_type = "videollama2"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": PretrainedConfig, "vision_config": PretrainedConfig}

    text_config: dict[str, Any] | PretrainedConfig | None = None
    vision_config: dict[str, Any] | PretrainedConfig | None = None
    sampler_padding: int = 1  # of the connector
    select_layer: int = -2  # the tower's hidden state that the connector reads
    select_feature: str = "patch"  # without the class token; "cls_patch": with it
    num_frames: int = FRAMES
    audio_sizes: dict[str, int] | None = None  # of `BeatsSizes`; None: the model hears nothing
    audio_depth: int = 2  # linear layers from the encoder's features to tokens
    video_token_id: int = VIDEO
    tie_word_embeddings: bool = False

    @classmethod
    def from_released(
        cls, config: Mapping[str, Any], vision: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
    ) -> "VideoLlama2Config":
        """From a checkpoint's config.json and its vision tower's config.

        Args:
            shapes: of the checkpoint's weights, by released name: the audio encoder's sizes are written nowhere else.

        Raises:
            ModelUnavailable: another language model, tower or connector.
        """
        kind = config.get("model_type", "")
        if kind not in _LANGUAGE:
            raise ModelUnavailable(
                f"its language model is of the kind {kind}, which purekv cannot run",
                f"Known are: {', '.join(_LANGUAGE)}.",
            )
        text = {key: value for key, value in config.items() if key not in _NOT_TEXT and not key.startswith("mm_")}
        tower = {key: value for key, value in vision.items() if key not in _NOT_TEXT}
        return cls(
            text_config=_LANGUAGE[kind](**text),
            vision_config=_VISION[vision["model_type"]](**tower),
            sampler_padding=connector_padding(config),
            select_layer=config.get("mm_vision_select_layer", -2),
            select_feature=config.get("mm_vision_select_feature", "patch"),
            num_frames=config.get("num_frames") or FRAMES,
            audio_sizes=_audio_sizes(shapes) if config.get("mm_audio_tower") else None,
            audio_depth=_depth(config.get("mm_projector_a_type", "linear")),
            tie_word_embeddings=bool(config.get("tie_word_embeddings")),
        )


def _audio_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    own = {name.removeprefix(AUDIO): shape for name, shape in shapes.items() if name.startswith(AUDIO)}
    try:
        return asdict(BeatsSizes.of(own))
    except (KeyError, StopIteration, ValueError):
        raise ModelUnavailable(
            "the checkpoint names an audio encoder, but lacks weights of it", "It is incomplete: fetch it again."
        ) from None


def _depth(kind: str) -> int:
    """Linear layers of a projector by its name: "linear" or "mlp2x_gelu"."""
    found = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    if not found and kind != "linear":
        raise ModelUnavailable(f"the checkpoint's audio projector is {kind}", "Known are: linear, mlp2x_gelu.")
    return int(found[1]) if found else 1
