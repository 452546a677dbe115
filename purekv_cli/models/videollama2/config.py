"""A released VideoLLaMA2 config.json, which is flat, as transformers' config with a part for each tower.

"videollama2_mistral" and the like are the config of that language model plus mm_* fields of LLaVA's kind.
"""

from collections.abc import Mapping
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
from purekv_cli.models.videollama2.geometry import FRAMES, connector_padding

VIDEO = -201  # stands for the video among token ids, as in the reference
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
    video_token_id: int = VIDEO
    tie_word_embeddings: bool = False

    @classmethod
    def from_released(cls, config: Mapping[str, Any], vision: Mapping[str, Any]) -> "VideoLlama2Config":
        """From a checkpoint's config.json and its vision tower's config.

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
            tie_word_embeddings=bool(config.get("tie_word_embeddings")),
        )
