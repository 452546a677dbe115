"""From a checkpoint folder to an adapter: stock transformers classes, safetensors only, never a checkpoint's code."""

from typing import Any

import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from purekv_cli.errors import ModelUnavailable, OutOfResources, PureKVError
from purekv_cli.models import hub
from purekv_cli.models.base import Adapter
from purekv_cli.models.geometry import ModelGeometry
from purekv_cli.models.placement import place
from purekv_cli.models.qwen_vl import QwenVL
from purekv_cli.models.registry import Source, preprocessor_config

_DAMAGED = "The checkpoint is damaged, half downloaded or of another layout: fetch it again."


def load_folder(source: Source, dtype: str, device: str, device_map: str | None) -> Adapter:
    """Load a source whose files are here. See `registry.load`."""
    folder = source.folder
    if folder is None:
        raise ModelUnavailable(f"the files of {source.name} are not here", "Fetch them first.")
    try:
        placement = place(source.name, hub.weight_files(folder), dtype, device, device_map)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
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
        raise ModelUnavailable(f"{source.name} could not be loaded: {_first_line(error)}", _DAMAGED) from error
    model, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise ModelUnavailable(f"{source.name} lacks {len(missing)} weights, such as {missing[0]}", _DAMAGED)
    preprocessor = preprocessor_config(folder)
    geometry = source.geometry or ModelGeometry.from_config(model.config.to_dict(), preprocessor)
    return QwenVL.of(source.name, folder, model.eval(), tokenizer, geometry, preprocessor)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
