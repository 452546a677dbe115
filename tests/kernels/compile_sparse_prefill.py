"""Compile the sparse kernels for GPUs that are not here; prints one JSON line per target: shared memory and registers.

python -m tests.kernels.compile_sparse_prefill
"""

import json
import sys

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
        "TMA": config.tma, "NEED_LSE": True, "PRECISION": "ieee" if dtype == "fp32" else "tf32",
    }  # fmt: skip
    kinds = {"scale": "fp32", "LSE": "*fp32"} | dict.fromkeys(("Q", "K", "V", "K_TMA", "V_TMA", "OUT"), f"*{dtype}")
    if config.tma:
        kinds |= dict.fromkeys(("K_TMA", "V_TMA"), f"tensordesc<{dtype}[{config.keys}, {wide}]>")
    names = sparse._kernel.arg_names
    signature = {
        name: "constexpr" if name in constants else kinds.get(name, "*i32" if name.isupper() else "i32")
        for name in names
    }
    source = ASTSource(
        sparse._kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name][0] in "*i"},
    )
    options = {"num_warps": config.warps, "num_stages": config.stages}
    return int(triton.compile(source, target=GPUTarget("cuda", chip, 32), options=options).metadata.shared)


if __name__ == "__main__":
    for target in sys.argv[1:]:
        chip, dtype, dim = target.split(":")
        print(json.dumps({"target": target, "shared": shared_memory(int(chip), dtype, int(dim))}), flush=True)
