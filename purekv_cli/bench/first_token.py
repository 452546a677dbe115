"""The whole wait: from a file on disk to the first answer token, stage by stage, in a process that is warm.

The stock pipeline decodes the sampled frames at their own size, has them resized, normalised and cut into patches on
the CPU (by the library's video processor where torchvision is installed, else by our equal of it), and runs
transformers' tower and decoder. Its frames come from our own reader, which is no slower than the libraries'. Ours
decodes to the model's size while preprocessing and tower run on the GPU, so that its stages overlap: what it shows as
vision is then what is left of it after the last frame.
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from purekv_cli.bench import engines
from purekv_cli.bench.arms import Arm
from purekv_cli.bench.measure import synchronize
from purekv_cli.bench.problem import Problem
from purekv_cli.bench.request import TEXT_AFTER, TEXT_BEFORE
from purekv_cli.bench.result import Stages
from purekv_cli.method.layout import VideoLayout
from purekv_cli.models.geometry import ModelGeometry
from purekv_cli.models.positions import VisionTokens, mrope_positions
from purekv_cli.models.preprocess import PixelScale, preprocess
from purekv_cli.runtime.vision import tower_features
from purekv_cli.runtime.vision_stream import decode_and_embed
from purekv_cli.runtime.vision_weights import read_tower
from purekv_cli.video.decode import decode
from purekv_cli.video.frames import Frames
from purekv_cli.video.info import VideoInfo
from purekv_cli.video.probe import probe
from purekv_cli.video.sample import SamplePlan, SampleSpec, sample


class FromFile:
    """One clip and one model; every call reads the file anew. To `decode_and_embed` it is the model's adapter."""

    def __init__(
        self,
        model: PreTrainedModel,
        path: Path,
        frames: int,
        geometry: ModelGeometry,
        scale: PixelScale | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self._path, self._frames = model, path, frames
        self.geometry, self.scale = geometry, scale or PixelScale()
        self._device = model.device
        random = torch.Generator().manual_seed(seed)
        self._text = torch.randint(10, 100, (TEXT_BEFORE + TEXT_AFTER,), generator=random)
        self._library = library_processor(self.geometry, self.scale)

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def preprocessing(self) -> str:
        """Who cuts the stock pipeline's frames into patches."""
        if self._library is None:
            return "purekv's processor on the CPU (torchvision is not installed): the same pixels as the library's"
        return "the library's video processor on the CPU"

    def prefilled(self, arm: Arm, engine: engines.Engine, count: int) -> tuple[Stages, int]:
        """One run up to the first token, ready for `count` more: its stages and the prompt's tokens."""
        stages, read = self.begun(arm, engine, count)
        return stages, read.problem.tokens

    def begun(self, arm: Arm, engine: engines.Engine, count: int) -> tuple[Stages, engines.Read]:
        """The same, for who wants to decode on."""
        synchronize(self._device)
        begin = time.perf_counter()
        problem, decoded, prepared = self._stock() if arm.is_stock else self._ours()
        synchronize(self._device)
        seen = time.perf_counter()
        read = engine.prefill(problem, arm.config)
        synchronize(self._device)
        prefilled = time.perf_counter()
        engine.start(read, count)
        whole = time.perf_counter() - begin
        stages = Stages(decoded - begin, prepared - decoded, seen - prepared, prefilled - seen, whole)
        return stages, read

    def _stock(self) -> tuple[Problem, float, float]:
        frames = decode(*self._plan())
        decoded = time.perf_counter()
        cpu = torch.device("cpu")
        patches, grid = self._library(frames.pixels) if self._library else self._patches(frames, cpu)
        patches = patches.to(self._device)
        synchronize(self._device)
        prepared = time.perf_counter()
        tower: Any = self.model.get_video_features
        out = tower(pixel_values_videos=patches, video_grid_thw=grid.to(self._device))
        found = getattr(out, "pooler_output", out)
        features = found if isinstance(found, Tensor) else torch.cat(list(found))
        return self._problem(features, grid, frames), decoded, prepared

    def _ours(self) -> tuple[Problem, float, float]:
        info, plan = self._plan()
        size = self.geometry.frame_size(info.height, info.width)
        frames, features = decode_and_embed(self, info, plan, size)  # type: ignore[arg-type]
        decoded = time.perf_counter()
        if features is None:  # on a CPU: one after the other
            patches, grid = self._patches(frames, self._device)
            prepared = time.perf_counter()
            features = tower_features(read_tower(self.model), patches, grid)
            return self._problem(features, grid, frames), decoded, prepared
        steps = -(-len(frames.pixels) // self.geometry.temporal_patch)
        grid = torch.tensor([[steps, size[0] // self.geometry.patch, size[1] // self.geometry.patch]])
        return self._problem(features, grid, frames), decoded, decoded

    def _plan(self) -> tuple[VideoInfo, SamplePlan]:
        info = probe(self._path)
        return info, sample(info, SampleSpec(mode="uniform", frames=self._frames))

    def _patches(self, frames: Frames, device: torch.device) -> tuple[Tensor, Tensor]:
        size = self.geometry.frame_size(*frames.pixels.shape[1:3])
        return preprocess(frames.pixels, size, self.geometry, self.scale, device, self.model.dtype)

    def _problem(self, features: Tensor, grid: Tensor, frames: Frames) -> Problem:
        """The prompt as embeddings, features in place."""
        config: Any = self.model.config
        video = torch.full((len(features),), config.video_token_id)
        ids = torch.cat([self._text[:TEXT_BEFORE], video, self._text[TEXT_BEFORE:]])[None]
        seconds = torch.tensor([self.geometry.temporal_patch * frames.seconds_per_frame])
        pace = config.vision_config.tokens_per_second
        tokens = VisionTokens(config.image_token_id, config.video_token_id, self.geometry.merge, pace)
        positions, _ = mrope_positions(ids, tokens, video_grids=grid.cpu(), seconds_per_grid=seconds)
        places = torch.arange(TEXT_BEFORE, TEXT_BEFORE + len(features))
        table: Any = self.model.get_input_embeddings()
        embeds = table(ids.to(self._device))
        embeds[0, TEXT_BEFORE : TEXT_BEFORE + len(features)] = features
        steps, rows, columns = (int(extent) for extent in grid[0])
        shape = (steps, rows // self.geometry.merge, columns // self.geometry.merge)
        layout = VideoLayout(ids.shape[1], places, shape)
        return Problem(self._path.name, embeds, positions.to(self._device), layout)


def library_processor(geometry: ModelGeometry, scale: PixelScale) -> Any:
    """transformers' video processor as a function of uint8 [N, H, W, 3]; None where it cannot be imported."""
    try:
        from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    except ImportError:  # it needs torchvision
        return None
    processor: Any = Qwen2VLVideoProcessor(
        size={"shortest_edge": geometry.min_pixels, "longest_edge": geometry.max_pixels},
        patch_size=geometry.patch,
        merge_size=geometry.merge,
        temporal_patch_size=geometry.temporal_patch,
        image_mean=list(scale.mean),
        image_std=list(scale.std),
    )

    def patches(pixels: Any) -> tuple[Tensor, Tensor]:
        video = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        found = processor(videos=[video], do_sample_frames=False, return_tensors="pt")
        return found["pixel_values_videos"], found["video_grid_thw"]

    return patches
