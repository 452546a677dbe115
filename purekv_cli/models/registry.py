"""Which model a name means, where its files are, and how it is loaded. Planning here needs neither torch nor network.

A name is an alias (3b, 7b, 32b, 72b, demo), a hub id (owner/model), a local folder, or `auto`: the configured model,
else a supported one in the local cache, Qwen2.5-VL first, else the 3B from the hub if the user agrees, else the
embedded model.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purekv_cli.errors import ModelUnavailable, unknown
from purekv_cli.models import hub
from purekv_cli.models.geometry import ModelGeometry, single_frames, squares, thinker
from purekv_cli.models.hub import CachedModel, cached_models
from purekv_cli.models.videollama2 import geometry as videollama2

if TYPE_CHECKING:
    from purekv_cli.models.base import Adapter

__all__ = [
    "ALIASES",
    "AUTO",
    "DEMO",
    "FAMILIES",
    "KNOWN",
    "SUPPORTED",
    "CachedModel",
    "Family",
    "Source",
    "cached_models",
    "choose",
    "family_of",
    "fetch",
    "find_cached",
    "load",
    "resolve",
]

AUTO, DEMO = "auto", "demo"
ALIASES = {size: f"Qwen/Qwen2.5-VL-{size.upper()}-Instruct" for size in ("3b", "7b", "32b", "72b")}
ALIASES |= {"videollama2": "DAMO-NLP-SG/VideoLLaMA2-7B-16F", "videollama2.1": "DAMO-NLP-SG/VideoLLaMA2.1-7B-16F"}
KNOWN: dict[str, ModelGeometry] = {
    "3b": ModelGeometry(layers=36, heads=16, kv_heads=2, head_dim=128, several=True),
    "7b": ModelGeometry(layers=28, heads=28, kv_heads=4, head_dim=128, several=True),
    "32b": ModelGeometry(layers=64, heads=40, kv_heads=8, head_dim=128, several=True),
    "72b": ModelGeometry(layers=80, heads=64, kv_heads=8, head_dim=128, several=True),
} | videollama2.RELEASED


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of model: what an architecture in config.json is run by."""

    name: str
    title: str  # as its makers write it
    adapter: str  # "module:class" in purekv_cli.models, with `of` as `chat.VideoChat` has it
    verified: str  # what was checked, and with which weights
    geometry: Callable[[Mapping[str, Any], Mapping[str, Any] | None], ModelGeometry] = ModelGeometry.from_config
    stamped: bool = False  # of `ModelGeometry`: its text around frames says when they are
    several: bool = False  # the same: a prompt may show several videos
    loader: str | None = None  # class of transformers, or "module:class" here; None: named like the architecture


CONTRACT = (
    "Every family passes its contract test with small random weights in the released layout: on the CPU with "
    "transformers 5.17 and 5.23, and on one H200 with 5.17. Released weights: the embedded model only."
)
_PIXELS = "pixels of the library's processor, bit for bit"  # tests/models/test_families.py
_PUBLISHED = "chat template as published"
_TEXT = f"{_PIXELS}, and its text around frames"
FAMILIES: dict[str, Family] = {
    "Qwen2_5_VLForConditionalGeneration": Family(
        "qwen2_5_vl",
        "Qwen2.5-VL",
        "qwen_vl:QwenVL",
        f"{_PIXELS}; {_PUBLISHED}; positions of transformers 4.57.1; the trained embedded model",
        several=True,
    ),
    "Qwen2VLForConditionalGeneration": Family(
        "qwen2_vl", "Qwen2-VL", "qwen2_vl:Qwen2VL", f"{_PIXELS}; {_PUBLISHED}", several=True
    ),
    "Qwen3VLForConditionalGeneration": Family(
        "qwen3_vl", "Qwen3-VL", "qwen3_vl:Qwen3VL", f"{_TEXT}; {_PUBLISHED}", stamped=True, several=True
    ),
    "LlavaOnevisionForConditionalGeneration": Family(
        "llava_onevision", "LLaVA-OneVision", "llava_onevision:LlavaOnevision", f"{_PIXELS}; {_PUBLISHED}", squares
    ),
    "LlavaNextVideoForConditionalGeneration": Family(
        "llava_next_video", "LLaVA-NeXT-Video", "llava_next_video:LlavaNextVideo", f"{_PIXELS}; {_PUBLISHED}", squares
    ),
    "InternVLForConditionalGeneration": Family(
        "internvl", "InternVL3", "internvl:InternVL", f"{_TEXT}; {_PUBLISHED}", squares
    ),
    "SmolVLMForConditionalGeneration": Family(
        "smolvlm",
        "SmolVLM2",
        "smolvlm:SmolVLM",
        "text and template of the library's processor; frames are resized otherwise",
        squares,
        stamped=True,
    ),
    "VideoLlama3ForConditionalGeneration": Family(
        "video_llama_3",
        "VideoLLaMA3",
        "video_llama_3:VideoLlama3",
        f"{_TEXT}; of its chat template only the form was at hand",
        single_frames,
        stamped=True,
    ),
    "Qwen2_5OmniModel": Family(
        "qwen2_5_omni",
        "Qwen2.5-Omni",
        "qwen2_5_omni:QwenOmni",
        f"{_PUBLISHED}; prompt, mel features and positions of the library's processor and model; sound: CPU only",
        thinker,
        loader="Qwen2_5OmniThinkerForConditionalGeneration",
    ),
}
FAMILIES["Qwen2_5OmniForConditionalGeneration"] = FAMILIES["Qwen2_5OmniModel"]  # as transformers 5 names it
FAMILIES |= {
    f"Videollama2{language}ForCausalLM": Family(
        "videollama2",
        "VideoLLaMA2",
        "videollama2.adapter:VideoLlama2Chat",
        "every tensor of two small models of the reference implementation; prompt of its published code",
        videollama2.connector_geometry,
        loader="videollama2.checkpoint:Checkpoint",
    )
    for language in ("Mistral", "Mixtral", "Qwen2")
}
SUPPORTED = {architecture: family.name for architecture, family in FAMILIES.items()}
_DOWNLOAD = {"3b": "7.5 GB", "7b": "16.6 GB", "32b": "67 GB", "72b": "147 GB"}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True, slots=True)
class Source:
    """A model that is known, before anything of it is loaded."""

    name: str  # as reports show it: "demo", a hub id, a folder
    folder: Path | None  # its files; None: they must be fetched first
    repo: str | None = None  # hub id; None for local folders and the embedded model
    revision: str | None = None
    geometry: ModelGeometry | None = None  # None: not known before it is fetched

    @property
    def is_demo(self) -> bool:
        """Whether this is the embedded model, whose use is announced."""
        return self.name == DEMO


def resolve(name: str, revision: str | None = None, offline: bool = False) -> Source:
    """What `name` means; looks at local files only.

    Args:
        offline: a model that would have to be fetched is an error.

    Raises:
        UsageError: no such name. ModelUnavailable: not here, damaged, or of an unsupported architecture.
    """
    if name == AUTO:
        return choose(revision=revision, offline=offline)
    if name == DEMO:
        from purekv_cli.demo import MODEL_DIR

        return _local(DEMO, MODEL_DIR)
    repo = ALIASES.get(name.lower(), name)
    folder = Path(repo).expanduser()
    if folder.is_dir():
        return _local(name, folder)
    if name.startswith((".", "/", "~")) or "\\" in name:
        raise ModelUnavailable(f"there is no folder {name}", "Give a folder with config.json and safetensors weights.")
    if not _HUB_ID.fullmatch(repo):
        raise unknown("model", name, [AUTO, DEMO, *ALIASES])
    if snapshot := hub.cached_snapshot(repo, revision):
        return replace(_local(repo, snapshot), repo=repo, revision=revision)
    if offline or hub.offline_by_environment():
        raise ModelUnavailable(
            f"{repo} is not in the local cache, and this run is offline",
            f"Fetch it once with `{hub.fetch_command(repo, revision)}`, or use the embedded model: -m demo.",
        )
    return Source(repo, None, repo, revision, _known(repo))


def find_cached() -> Source | None:
    """A model from the local cache: Qwen2.5-VL's released sizes first, of them the smallest (the likeliest to fit)."""
    usable = {model.name for model in cached_models() if model.architecture in SUPPORTED and not model.quantized}
    order = [*ALIASES.values(), *sorted(usable)]
    return next((resolve(name) for name in order if name in usable), None)


def choose(
    configured: str | None = None,
    revision: str | None = None,
    offline: bool = False,
    confirm: Callable[[str], bool] | None = None,
) -> Source:
    """The model of `auto`.

    Args:
        configured: the model named in the user's configuration, if any.
        confirm: asks the user whether to download; None where there is nobody to ask.
    """
    if configured and configured != AUTO:
        return resolve(configured, revision, offline)
    if cached := find_cached():
        return cached
    if confirm and not (offline or hub.offline_by_environment()) and hub.reachable():
        smallest = ALIASES["3b"]
        if confirm(f"No model is here yet. Download {smallest} ({_DOWNLOAD['3b']}) to {hub.cache_folder()}?"):
            return Source(smallest, None, smallest, revision, KNOWN["3b"])
    return resolve(DEMO)


def fetch(source: Source) -> Source:
    """The source with its files on this machine; downloads them, with progress on stderr, if they are not."""
    if source.folder is not None or source.repo is None:
        return source
    folder = hub.download(source.repo, source.revision, lambda config: _must_be_known(source.name, config))
    return replace(_local(source.name, folder), repo=source.repo, revision=source.revision)


def load(source: Source, dtype: str = "auto", device: str = "auto", device_map: str | None = None) -> "Adapter":
    """Fetch the files if need be and load the model.

    Args:
        dtype: "auto" (bfloat16 where it is native, else float32), "bfloat16", "float16" or "float32".
        device: "auto" (cuda, then mps, then cpu) or a torch device.
        device_map: "auto" spreads the layers over all GPUs; None does so only where one GPU is too small.

    Raises:
        ModelUnavailable, OutOfResources, UsageError.
    """
    source = fetch(source)
    from purekv_cli.models.loading import load_folder

    return load_folder(source, dtype, device, device_map)


def preprocessor_config(folder: Path) -> Mapping[str, Any]:
    """The video preprocessor's config, else the image preprocessor's, else nothing."""
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            return hub.read_json(folder / name)
    return {}


def _local(name: str, folder: Path) -> Source:
    """A source from files that are here, checked as far as that goes without reading weights."""
    config = hub.read_json(folder / "config.json")
    family = family_of(name, config)
    if not hub.weight_files(folder):
        raise ModelUnavailable(
            f"{folder} lacks safetensors weights or some of them",
            "purekv loads no other kind. If it is half downloaded, fetch it again.",
        )
    try:
        sizes = family.geometry(config, preprocessor_config(folder))
    except (KeyError, TypeError) as error:
        raise ModelUnavailable(
            f"{folder / 'config.json'} lacks {error}", "The checkpoint is damaged or of an unknown layout."
        ) from None
    return Source(name, folder, geometry=replace(sizes, stamped=family.stamped, several=family.several))


def family_of(name: str, config: Mapping[str, Any]) -> Family:
    """The family that a config.json belongs to.

    Raises:
        ModelUnavailable: none that is known; names those that are.
    """
    architectures = config.get("architectures") or ["nothing that config.json names"]
    for architecture in architectures:
        if architecture in FAMILIES:
            return FAMILIES[architecture]
    sees = any(mark in key for key in config for mark in ("vision", "visual", "mm_", "image", "auto_map"))
    if str(architectures[0]).endswith(("ForCausalLM", "LMHeadModel")) and not sees:
        what = f"{name} is a text-only model ({architectures[0]}): it has no eyes for a video"
    else:
        what = f"{name} is a model of the kind {architectures[0]}, which purekv cannot run"
    titles = ", ".join(dict.fromkeys(family.title for family in FAMILIES.values()))
    raise ModelUnavailable(what, f"Supported are: {titles} (such as -m 3b). To add a family: docs/adding-a-family.md.")


def _must_be_known(name: str, config: Mapping[str, Any]) -> None:
    family_of(name, config)


def _known(repo: str) -> ModelGeometry | None:
    return next((KNOWN[size] for size, name in ALIASES.items() if name == repo), None)
