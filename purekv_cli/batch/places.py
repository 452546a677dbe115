"""How many workers a machine gets, and what each may use of it."""

import os

from purekv_cli.commands.model import ChosenModel

DECODERS = 8  # most clips decoded ahead by one worker


def cores_here() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environments(model: ChosenModel, device: str, workers: int | None, cores: int | None) -> list[dict[str, str]]:
    """One a worker: a GPU each, or a share of the cores. A model too large for one GPU has all of them for itself.

    Args:
        device: as the user wrote it; a numbered GPU is taken at that word.
    """
    if model.device.type != "cuda":
        count = workers or 1
        if count == 1 and cores is None:
            return [{}]
        return [{"OMP_NUM_THREADS": str(cores or max(cores_here() // count, 1))}] * count
    gpus = _gpus()
    if ":" in device or len(gpus) == 1 or _too_large(model):
        return [{}] * (workers or 1)
    return [{"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} for index in range(workers or len(gpus))]


def decoders_for(workers: int) -> int:
    """Clips that a worker decodes ahead: as many as its cores allow, and one core for answering."""
    return max(1, min(DECODERS, cores_here() // workers - 1))


def _gpus() -> list[str]:
    """Names of the GPUs that may be used, as CUDA_VISIBLE_DEVICES takes them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name for name in visible.split(",") if name.strip()] if visible else []
    count = torch.cuda.device_count()
    return names[:count] if names else [str(index) for index in range(count)]


def _too_large(model: ChosenModel) -> bool:
    import torch

    from purekv_cli.models.hub import weight_files
    from purekv_cli.models.placement import parameter_bytes

    if model.source.folder is None:
        return False
    room: int = torch.cuda.get_device_properties(model.device).total_memory
    return parameter_bytes(weight_files(model.source.folder), model.dtype) > room
