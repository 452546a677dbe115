"""The vision tower's own config, preprocessor and weights: a VideoLLaMA2 config.json only names the tower.

They come from a folder, where the name is a path, else from the hub's cache. The two towers of the released checkpoints
are known here, so their numbers need no file. Nothing here imports torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purekv_cli.errors import ModelUnavailable
from purekv_cli.models import hub

CLIP, SIGLIP = "openai/clip-vit-large-patch14-336", "google/siglip-so400m-patch14-384"


@dataclass(frozen=True, slots=True)
class TowerFiles:
    """What is known of a tower."""

    name: str  # as config.json names it
    vision: Mapping[str, Any]  # its vision config: model_type "clip_vision_model" or "siglip_vision_model"
    preprocessor: Mapping[str, Any]
    folder: Path | None  # its own checkpoint, if that is here

    @property
    def side(self) -> int:
        """Of a frame as the tower reads it, pixels."""
        return int(self.vision["image_size"])

    @property
    def patch(self) -> int:
        """Pixels."""
        return int(self.vision["patch_size"])


_KNOWN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    CLIP: (
        {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 768,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": 336,
            "crop_size": 336,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    ),
    SIGLIP: (
        {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
        },
        {
            "image_processor_type": "SiglipImageProcessor",
            "size": {"height": 384, "width": 384},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    ),
}


def find_tower(config: Mapping[str, Any]) -> TowerFiles:
    """The tower that a released config.json names; looks at local files only.

    Raises:
        ModelUnavailable: nothing is known of it.
    """
    name = config.get("mm_vision_tower")
    if not isinstance(name, str):
        raise ModelUnavailable("config.json names no vision tower (mm_vision_tower)", "Choose another checkpoint.")
    folder = _folder(name)
    if folder is not None:
        vision = hub.read_json(folder / "config.json")
        vision = vision.get("vision_config", vision) | {"model_type": _kind(name)}
        return TowerFiles(name, vision, hub.read_json(folder / "preprocessor_config.json"), folder)
    if name in _KNOWN:
        return TowerFiles(name, *_KNOWN[name], None)
    raise ModelUnavailable(
        f"nothing is known of the vision tower {name}",
        f"Fetch it with `{hub.fetch_command(name)}`, or write the path of its folder into config.json.",
    )


def fetch_tower(tower: TowerFiles) -> Path:
    """The folder of the tower's own weights, fetched if they are not here."""
    if tower.folder is not None and hub.weight_files(tower.folder):
        return tower.folder
    if hub.offline_by_environment():
        raise ModelUnavailable(
            f"the checkpoint lacks its vision tower {tower.name}, and this run is offline",
            f"Fetch it once with `{hub.fetch_command(tower.name)}`.",
        )
    return hub.download(tower.name, None, lambda config: None)


def _folder(name: str) -> Path | None:
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return path
    return hub.cached_snapshot(name) if not path.is_absolute() else None


def _kind(name: str) -> str:
    """The reference chooses the tower's class by its name, "clip" first."""
    for kind in ("clip", "siglip"):
        if kind in name.lower():
            return f"{kind}_vision_model"
    raise ModelUnavailable(f"the vision tower {name} is neither CLIP nor SigLIP", "Choose another checkpoint.")
