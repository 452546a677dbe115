"""The model: a stock vision tower, the connector, a stock language model, and the splice of its embeddings.

An audio-visual checkpoint also has BEATs and its projector; tokens of sound follow those of the video.

Key names of the released checkpoints are mapped by `KEYS` when transformers loads them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionModel,
    GenerationMixin,
    MistralForCausalLM,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    SiglipVisionModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from purekv_cli.models.videollama2.beats import Beats, BeatsSizes
from purekv_cli.models.videollama2.config import VideoLlama2Config
from purekv_cli.models.videollama2.connector import STCConnector

KEYS = {  # released name: ours, as patterns
    r"^model\.vision_tower\.vision_tower\.(vision_model\.)?": "vision_tower.",
    r"^model\.mm_projector\.": "connector.",
    r"^model\.audio_tower\.": "audio_tower.",
    r"^model\.mm_projector_a\.": "audio_projector.",
    r"^model\.(layers|embed_tokens|norm)\.": r"language_model.model.\1.",
    r"^lm_head\.": "language_model.lm_head.",
}
_LANGUAGE: dict[str, Any] = {"mistral": MistralForCausalLM, "mixtral": MixtralForCausalLM, "qwen2": Qwen2ForCausalLM}
_VISION: dict[str, Any] = {"clip_vision_model": CLIPVisionModel, "siglip_vision_model": SiglipVisionModel}


class VideoLlama2(PreTrainedModel, GenerationMixin):
    """VideoLLaMA2 with any of its language models."""

    config_class = VideoLlama2Config
    config: VideoLlama2Config
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: VideoLlama2Config) -> None:
        super().__init__(config)
        text: Any = config.text_config
        vision: Any = config.vision_config
        self.vision_tower = _VISION[vision.model_type](vision)
        self.connector = STCConnector(vision.hidden_size, text.hidden_size, config.sampler_padding)
        self.language_model = _LANGUAGE[text.model_type](text)
        if config.audio_sizes:
            sizes = BeatsSizes(**config.audio_sizes)
            self.audio_tower = Beats(sizes)
            parts: list[nn.Module] = [nn.Linear(sizes.width, text.hidden_size)]
            for _ in range(config.audio_depth - 1):
                parts += [nn.GELU(), nn.Linear(text.hidden_size, text.hidden_size)]
            self.audio_projector = nn.Sequential(*parts)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.language_model.get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        head: nn.Module = self.language_model.get_output_embeddings()
        return head

    def get_decoder(self) -> Any:
        return self.language_model.get_decoder()

    def vision_features(self, pixels: Tensor) -> Tensor:
        """The tower's hidden state at the selected layer, [T, N, C], of frames [T, 3, S, S]; no layer above it runs."""
        tower = self.vision_tower
        x = tower.embeddings(pixels.to(self.device, self.dtype))
        if hasattr(tower, "pre_layrnorm"):
            x = tower.pre_layrnorm(x)
        layers = tower.encoder.layers
        states = len(layers) + 1  # the embeddings are the first
        for layer in layers[: range(states)[self.config.select_layer]]:
            x = layer(x, attention_mask=None)
        if hasattr(tower.embeddings, "class_embedding") and self.config.select_feature == "patch":
            x = x[:, 1:]
        return x

    def get_video_features(self, pixel_values_videos: Tensor, audio_banks: Tensor | None = None) -> Tensor:
        """Tokens of one clip, [V, hidden] in (t, h, w) order, of its frames [T, 3, S, S]; then those of its sound."""
        tokens: Tensor = self.connector(self.vision_features(pixel_values_videos)[None])
        if audio_banks is not None:
            tokens = torch.cat([tokens, self.get_audio_features(audio_banks)[None].to(tokens.device)], 1)
        return tokens[0]

    def get_audio_features(self, audio_banks: Tensor) -> Tensor:
        """Tokens of one clip's sound, [A, hidden], of its filter bank [frames, bins]."""
        tokens: Tensor = self.audio_projector(self.audio_tower(audio_banks[None]))
        return tokens[0]

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        audio_banks: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits; the places of a clip's tokens in `input_ids` [1, N] hold `config.video_token_id`.

        Args:
            pixel_values_videos: [T, 3, S, S], of one clip.
            audio_banks: [frames, bins], of its sound.
        """
        if inputs_embeds is None and input_ids is not None:
            inputs_embeds = self.get_input_embeddings()(input_ids.clamp(min=0))
            video = input_ids == self.config.video_token_id
            if pixel_values_videos is not None and bool(video.any()):
                tokens = self.get_video_features(pixel_values_videos, audio_banks)
                tokens = tokens.to(inputs_embeds.device, inputs_embeds.dtype)
                inputs_embeds = inputs_embeds.masked_scatter(video[..., None], tokens)
        return self.language_model(inputs_embeds=inputs_embeds, **kwargs)
