"""From a checkpoint folder to an adapter: stock transformers classes, safetensors only, never a checkpoint's code."""

from importlib import import_module
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer

from purekv_cli.errors import ModelUnavailable, OutOfResources, PureKVError
from purekv_cli.models import hub
from purekv_cli.models.base import Adapter
from purekv_cli.models.placement import DAMAGED, place
from purekv_cli.models.registry import Family, Source, family_of, preprocessor_config


def load_folder(source: Source, dtype: str, device: str, device_map: str | None) -> Adapter:
    """Load a source whose files are here. See `registry.load`."""
    folder = source.folder
    if folder is None:
        raise ModelUnavailable(f"the files of {source.name} are not here", "Fetch them first.")
    config = hub.read_json(folder / "config.json")
    family = family_of(source.name, config)
    try:
        placement = place(source.name, hub.weight_files(folder), dtype, device, device_map)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        loaded: Any = _model_class(family, config).from_pretrained(
            folder,
            dtype=placement.dtype,
            device_map=placement.device_map,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        if not placement.device_map:
            loaded[0].to(placement.device)
    except torch.OutOfMemoryError:
        raise OutOfResources(
            f"{source.name} does not fit into the memory of {device}",
            "Close other programs that use the device, or choose a smaller model (-m 3b).",
        ) from None
    except MemoryError:
        raise OutOfResources(f"{source.name} does not fit into memory", "Choose a smaller model (-m 3b).") from None
    except ImportError as error:
        raise ModelUnavailable(
            f"{source.name} needs a package that is not installed: {_first_line(error)}",
            "Install it, or choose the model without quantisation.",
        ) from error
    except PureKVError:
        raise
    except Exception as error:  # damaged files end in whatever the libraries that read them happen to raise
        raise ModelUnavailable(f"{source.name} could not be loaded: {_first_line(error)}", DAMAGED) from error
    model, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise ModelUnavailable(f"{source.name} lacks {len(missing)} weights, such as {missing[0]}", DAMAGED)
    preprocessor = preprocessor_config(folder)
    geometry = source.geometry or family.geometry(config, preprocessor)
    adapter: Adapter = _named(family.adapter).of(
        source.name, folder, model.eval(), tokenizer, geometry, preprocessor, family.name
    )
    return adapter


def _model_class(family: Family, config: dict[str, Any]) -> Any:
    """What has `from_pretrained`: of transformers, or of the family's own module."""
    name = family.loader or next(name for name in config["architectures"] if hasattr(transformers, name))
    return _named(name) if ":" in name else getattr(transformers, name)


def _named(path: str) -> Any:
    """From "module:class" in this package."""
    module, _, name = path.partition(":")
    return getattr(import_module(f"purekv_cli.models.{module}"), name)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
