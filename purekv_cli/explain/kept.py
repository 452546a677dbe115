"""Which entries of a prompt stayed in the cache, read off the engine's own cache after an answer."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from purekv_cli.runtime.session import Session
from purekv_cli.video.frames import Frames

FORMAT = 1  # of kept.npz


@dataclass(frozen=True, slots=True)
class Kept:
    """One prompt of N tokens with T x H x W video tokens, in L layers of Hkv KV heads."""

    entries: NDArray[np.bool_]  # [L, Hkv, N], True where a head still holds the token
    video: NDArray[np.int64]  # [T * H * W], positions of the video tokens, frame by frame
    audio: NDArray[np.int64]  # [A], positions of the sound's tokens
    grid: tuple[int, int, int]  # (T, H, W)
    times: NDArray[np.float64]  # [F], s, of the sampled frames
    end: float  # s: where the last frame's share of the clip ends

    @property
    def layers(self) -> int:
        return self.entries.shape[0]

    @property
    def counts(self) -> NDArray[np.int64]:
        """int64 [L, Hkv], entries that every head holds, text included."""
        return self.entries.sum(-1, dtype=np.int64)

    @property
    def steps(self) -> NDArray[np.int64]:
        """int64 [F], the temporal step that each frame belongs to: families merge one or two frames into one."""
        count = len(self.times)
        return np.minimum(np.arange(count) // -(-count // self.grid[0]), self.grid[0] - 1)

    @property
    def by_layer(self) -> NDArray[np.float64]:
        """float64 [L], share of the video's entries that a layer keeps."""
        shares: NDArray[np.float64] = self.entries[..., self.video].mean((1, 2))
        return shares

    def patches(self, layer: int | None = None) -> NDArray[np.float64]:
        """float64 [T, H, W], the share of layers and KV heads that keep a patch; of one layer: of its heads."""
        chosen = self.entries if layer is None else self.entries[layer : layer + 1]
        shares: NDArray[np.float64] = chosen[..., self.video].mean((0, 1)).reshape(self.grid)
        return shares

    def save(self, path: Path) -> None:
        """Write the NumPy archive that docs/explain.md describes."""
        counts = self.counts
        positions = np.full((*counts.shape, counts.max()), -1, np.int32)
        for place in np.ndindex(counts.shape):
            positions[place][: counts[place]] = np.flatnonzero(self.entries[place])
        np.savez_compressed(
            path,
            format=np.int64(FORMAT),
            positions=positions,
            counts=counts,
            prompt_tokens=np.int64(self.entries.shape[-1]),
            video=self.video,
            audio=self.audio,
            grid=np.array(self.grid, np.int64),
            times=self.times,
            steps=self.steps,
        )


def read_kept(session: Session, frames: Frames, prompt_tokens: int) -> Kept:
    """What a session's cache holds of a prompt of that many tokens; what was generated after it is left out."""
    found = [positions[0].cpu().numpy() for positions in session.kept]
    entries = np.zeros((len(found), found[0].shape[0], prompt_tokens), np.bool_)
    for layer, heads in enumerate(found):
        for head, places in enumerate(heads):
            entries[layer, head, places[(places >= 0) & (places < prompt_tokens)]] = True
    layout = session.inputs.layout
    video, audio = (span.cpu().numpy() for span in (layout.video, layout.audio))
    end = float(frames.times[-1]) + max(frames.seconds_per_frame, 1e-3)
    return Kept(entries, video, audio, layout.grid, frames.times, end)
