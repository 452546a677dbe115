"""The thinker of Qwen2.5-Omni, the part that sees, hears and answers in text; what speaks is not loaded."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel, WhisperFeatureExtractor

from purekv_cli.models import hub
from purekv_cli.models.chat import Seen
from purekv_cli.models.geometry import THINKER_HEARS
from purekv_cli.models.positions import VisionTokens
from purekv_cli.models.qwen_vl import QwenVL
from purekv_cli.models.sound import block_positions, by_turns, mel_of
from purekv_cli.video.frames import Frames


class QwenOmni(QwenVL):
    """A loaded Qwen2.5-Omni thinker: as Qwen2.5-VL, but a second is 25 positions, and sound lies between the frames."""

    placeholder: ClassVar[str] = "<|vision_bos|><|VIDEO|><|vision_eos|>"
    block: ClassVar[str] = "<|vision_bos|><|audio_bos|>{}<|audio_eos|><|vision_eos|>"  # in its place, with sound
    extractor: WhisperFeatureExtractor

    @classmethod
    def of(cls, name: str, folder: Path, model: PreTrainedModel, *parts: Any) -> Self:
        adapter = super().of(name, folder, model, *parts)
        config: Any = model.config
        file = folder / "preprocessor_config.json"
        stated = hub.read_json(file) if file.is_file() else {}
        released = {"feature_size": config.audio_config.num_mel_bins, "chunk_length": THINKER_HEARS}
        chosen = {key: stated.get(key, value) for key, value in released.items()}
        adapter.extractor = WhisperFeatureExtractor(**chosen)
        return adapter

    @property
    def audio_id(self) -> int:
        config: Any = self.model.config
        return int(config.audio_token_id)

    @property
    def tokens(self) -> VisionTokens:
        config: Any = self.model.config
        return replace(super().tokens, tokens_per_second=float(config.position_id_per_seconds))

    def see(self, frames: Frames, features: Tensor | None) -> Seen:
        seen = super().see(frames, features)
        seen.features["video_second_per_grid"] = seen.features.pop("second_per_grid_ts")
        if frames.sound is None:
            return seen
        mel = mel_of(self.extractor, frames.sound.samples, frames.sound.rate)
        if not mel.tokens:
            return seen
        seen.features["input_features"] = mel.features.to(self.device)
        seen.features["feature_attention_mask"] = mel.mask.to(self.device)
        seen.features["use_audio_in_video"] = torch.tensor(True)
        return replace(seen, tokens_of_sound=mel.tokens)

    def write(self, frames: Frames, seen: Seen) -> tuple[str, list[int]]:
        if not seen.tokens_of_sound:
            return super().write(frames, seen)
        config: Any = self.model.config
        length = int(config.position_id_per_seconds * config.seconds_per_chunk)
        cells = seen.grid[1] * seen.grid[2]
        runs = by_turns(self.times(frames, seen).repeat_interleave(cells), seen.tokens_of_sound, length)
        sound = str(self.tokenizer.convert_ids_to_tokens(self.audio_id))
        text = "".join(sound if heard else self.video_token for heard, _ in runs)
        return self.block.format(text), [count for _, count in runs]

    def place(self, ids: Tensor, clips: Sequence[Frames], seen: Seen) -> Tensor:
        if seen.tokens_of_sound:
            video, audio = ((ids[0] == token).nonzero()[:, 0] for token in (self.video_id, self.audio_id))
            return block_positions(ids.shape[1], video, audio, seen.grid, self.times(clips[0], seen))
        positions = super().place(ids, clips, seen)
        del seen.features["mm_token_type_ids"]
        return positions

    def times(self, frames: Frames, seen: Seen) -> Tensor:
        """Of the grid's steps, in positions from the first: int64 [T]."""
        return (self.elapsed(frames, seen.grid[0]) * self.tokens.tokens_per_second).long()
