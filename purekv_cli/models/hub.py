"""Checkpoints in the Hugging Face cache and on the hub: found, listed and fetched, with every failure named.

Only safetensors weights are ever fetched or accepted. Nothing here imports torch.
"""

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from purekv_cli.errors import ModelUnavailable, OutOfResources, PureKVError

_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model"]


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A whole checkpoint in the local cache."""

    name: str  # "Qwen/Qwen2.5-VL-3B-Instruct"
    folder: Path
    bytes: int  # of its weights
    architecture: str
    quantized: bool  # needs packages that purekv does not bring


def cache_folder() -> Path:
    """Where the hub's files are kept; HF_HUB_CACHE and HF_HOME move it."""
    from huggingface_hub import constants

    return Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE)


def offline_by_environment() -> bool:
    """Whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbid the network."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.upper() in ("1", "ON", "YES", "TRUE") for value in values)


def cached_snapshot(repo: str, revision: str | None = None) -> Path | None:
    """The folder of a checkpoint that is in the cache with all its weights, else None."""
    home = cache_folder() / f"models--{repo.replace('/', '--')}"
    reference = home / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    folder = home / "snapshots" / commit if commit else None
    return folder if folder is not None and weight_files(folder) else None


def cached_models() -> list[CachedModel]:
    """Every whole checkpoint in the cache, of any architecture, by name."""
    found = []
    for home in sorted(cache_folder().glob("models--*")):
        name = home.name.removeprefix("models--").replace("--", "/")
        folder = cached_snapshot(name)
        if folder is None:
            continue
        try:
            config = read_json(folder / "config.json")
        except ModelUnavailable:
            continue
        size = sum(path.stat().st_size for path in weight_files(folder))
        architecture = str((config.get("architectures") or ["unknown"])[0])
        found.append(CachedModel(name, folder, size, architecture, "quantization_config" in config))
    return found


def weight_files(folder: Path) -> list[Path]:
    """A checkpoint's safetensors files; none where config.json or one of the shards is missing."""
    if not (folder / "config.json").is_file():
        return []
    index = folder / "model.safetensors.index.json"
    names = set(read_json(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    files = [folder / name for name in sorted(names)]
    return files if all(path.is_file() for path in files) else []


def read_json(path: Path) -> dict[str, Any]:
    """A checkpoint's JSON file.

    Raises:
        ModelUnavailable: it is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnavailable(
            f"cannot read {path}: {error}", "The checkpoint is incomplete or damaged: fetch it again."
        ) from None
    if not isinstance(content, dict):
        raise ModelUnavailable(f"{path} holds no JSON object", "The checkpoint is damaged: fetch it again.")
    return content


def download(repo: str, revision: str | None, check: Callable[[dict[str, Any]], None]) -> Path:
    """Fetch a checkpoint into the cache, showing progress on stderr, and return its folder.

    Args:
        check: called with config.json before the weights are fetched; raises if they would be of no use.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    if not reachable():
        raise _unreachable(repo, revision)
    with hub_errors(repo, revision):
        config = hf_hub_download(repo, "config.json", revision=revision, cache_dir=cache_folder())
        check(read_json(Path(config)))
        folder = Path(snapshot_download(repo, revision=revision, cache_dir=cache_folder(), allow_patterns=_WANTED))
    if not weight_files(folder):
        raise ModelUnavailable(
            f"{repo} has no safetensors weights",
            "purekv loads no other kind, because pickled weights can run code. Convert them, or choose another model.",
        )
    return folder


def reachable() -> bool:
    """Whether the hub's host takes a connection: its own client would retry for half a minute to find out."""
    from huggingface_hub import constants

    url = urlsplit(constants.ENDPOINT)
    if url.scheme in getproxies():
        return True  # only the proxy knows
    port = url.port or (80 if url.scheme == "http" else 443)
    try:
        with socket.create_connection((url.hostname or "", port), timeout=5):
            return True
    except OSError:
        return False


def fetch_command(repo: str, revision: str | None = None) -> str:
    """What a user types to fetch a checkpoint by hand."""
    return f"hf download {repo}" + (f" --revision {revision}" if revision else "")


@contextmanager
def hub_errors(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn the hub's and the network's failures into ours."""
    from huggingface_hub import errors

    try:
        yield
    except PureKVError:
        raise
    except errors.GatedRepoError:
        raise ModelUnavailable(
            f"{repo} asks for its terms to be accepted",
            f"Accept them at https://huggingface.co/{repo}, then `hf auth login`.",
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelUnavailable(
            f"{repo} has no revision {revision!r}", "Leave out --revision, or give a branch, tag or commit of it."
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelUnavailable(
            f"there is no model {repo} on the hub, or it is private",
            "Check the spelling; for a private model log in with `hf auth login`.",
        ) from None
    except errors.LocalEntryNotFoundError:
        raise _unreachable(repo, revision) from None
    except errors.EntryNotFoundError:
        raise ModelUnavailable(
            f"{repo} holds no transformers checkpoint (it has no config.json)",
            "Choose a model in the transformers layout, such as -m 3b.",
        ) from None
    except errors.HFValidationError as error:
        raise ModelUnavailable(f"{repo!r} cannot be a model's name: {error}", "Names look like owner/model.") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfResources(
                f"no space left for {repo} in {cache_folder()}", "Free some space, or set HF_HUB_CACHE to another disk."
            ) from None
        raise ModelUnavailable(
            f"{repo} could not be fetched: {_first_line(error)}",
            "Check the network and try again: a download goes on where it stopped.",
        ) from None
    except Exception as error:
        # The hub's client has changed its network library between releases; whatever it raises ends here.
        raise ModelUnavailable(
            f"{repo} could not be fetched: {type(error).__name__}: {_first_line(error)}",
            "Check the network and try again: a download goes on where it stopped.",
        ) from error


def _unreachable(repo: str, revision: str | None) -> ModelUnavailable:
    return ModelUnavailable(
        f"{repo} is not in the cache and the hub cannot be reached",
        f"Check the network, fetch it with `{fetch_command(repo, revision)}`, or use the embedded model: -m demo.",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
