"""Compile the sparse kernels for GPUs that are not here; prints one JSON line per target: bytes of shared memory.

python -m tests.kernels.compile_sparse_prefill 80:bf16:128 90:bf16:128:hopper

The last is the Hopper kernel, the others are the Triton kernel.
"""

import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from purekv_cli.kernels.sparse_prefill import triton as sparse
from purekv_cli.kernels.sparse_prefill.config import for_chip

NAMES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def shared_memory(chip: int, dtype: str, dim: int) -> int:
    """Bytes that a program of the Triton kernel needs on compute capability chip / 10."""
    config = for_chip((chip // 10, chip % 10), NAMES[dtype], dim)
    wide = triton.next_power_of_2(dim)
    constants = {
        "HEADS": 28, "GROUPS": 7, "DIM": dim, "WIDE": wide, "ROWS": 128, "BM": config.rows, "BN": config.keys,
        "TMA": config.tma, "PRECISION": "ieee" if dtype == "fp32" else "tf32",
    }  # fmt: skip
    kinds = {"scale": "fp32", "LSE": "*fp32"} | dict.fromkeys(("Q", "K", "V", "K_TMA", "V_TMA", "OUT"), f"*{dtype}")
    if config.tma:
        kinds |= dict.fromkeys(("K_TMA", "V_TMA"), f"tensordesc<{dtype}[{config.keys}, {wide}]>")
    options = {"num_warps": config.warps, "num_stages": config.stages}
    return _compiled(ASTSource, sparse._kernel, constants, kinds, chip, options)


def hopper_shared_memory(dtype: str, dim: int) -> int:
    """The same of the Hopper kernel."""
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon._runtime import GluonASTSource

    from purekv_cli.kernels.sparse_prefill import hopper

    layout = gl.NVMMASharedLayout.get_default_for([hopper.KEYS, dim], {"bf16": gl.bfloat16, "fp16": gl.float16}[dtype])
    constants = {
        "HEADS": 28, "GROUPS": 7, "DIM": dim, "BN": hopper.KEYS, "STAGES": hopper.STAGES,
    }  # fmt: skip
    kinds = {"scale": "fp32", "LSE": "*fp32"} | dict.fromkeys(("Q", "K", "V", "OUT"), f"*{dtype}")
    kinds |= dict.fromkeys(("K_TMA", "V_TMA"), f"tensordesc<{dtype}[{hopper.KEYS}, {dim}],{layout!r}>")
    options = {"num_warps": 4, "maxnreg": 168}
    return _compiled(GluonASTSource, hopper._kernel, constants, kinds, 90, options)


def _compiled(
    source: type[ASTSource], kernel: Any, constants: dict[str, Any], kinds: dict[str, str], chip: int, options: dict
) -> int:
    names = kernel.arg_names
    signature = {
        name: "constexpr" if name in constants else kinds.get(name, "*i32" if name.isupper() else "i32")
        for name in names
    }
    made = source(
        kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name][0] in "*i"},
    )
    return int(triton.compile(made, target=GPUTarget("cuda", chip, 32), options=options).metadata.shared)


if __name__ == "__main__":
    for target in sys.argv[1:]:
        chip, dtype, dim, *hopper = target.split(":")
        shared = hopper_shared_memory(dtype, int(dim)) if hopper else shared_memory(int(chip), dtype, int(dim))
        print(json.dumps({"target": target, "shared": shared}), flush=True)
