"""How much faster a prefill could be at best: the model's arithmetic at the rates that its kernels reach.

    python -m purekv_cli.bench.ceilings --shape 7b --matrix 750 --attention 560

Sparse attention alone cannot take away the matrix products, so its gain is capped by them; only propagation shrinks
both. Tower, norms, scoring and selection are left out: what is measured lies below.
"""

import argparse
from dataclasses import replace

from purekv_cli.bench.request import read_counts
from purekv_cli.bench.shapes import SHAPES, Shape
from purekv_cli.bench.work import Sizes
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig, Propagation

TEXT = 96  # tokens of the prompt that are no video


def sizes(shape: Shape) -> Sizes:
    """What a decoder of this shape in bf16 computes, without building it."""
    keys_values = 2 * shape.hidden * shape.kv_heads * shape.head_dim
    linear = 2 * shape.hidden * shape.heads * shape.head_dim + keys_values + 3 * shape.hidden * shape.intermediate
    head = shape.hidden * shape.vocabulary
    return Sizes(shape.layers, shape.heads, shape.kv_heads, shape.head_dim, linear, keys_values, head, 2)


def seconds(
    sizes: Sizes, config: MethodConfig, tokens: int, matrix: float, attention: float, density: float, *, trims: bool
) -> float:
    """Time of one prefill if matrix products and attention run at these rates, in FLOP/s, and nothing else costs time.

    Args:
        density: share of the query-key pairs that layers with all tokens read.
        trims: whether the last layer computes the last token alone, as ours does.
    """
    whole = sizes.prefill_flops(config, tokens, TEXT, density, trims=trims)
    products = replace(sizes, heads=0).prefill_flops(config, tokens, TEXT, density, trims=trims)
    return products / matrix + (whole - products) / attention


def table(shape: Shape, lengths: list[int], matrix: float, attention: float, density: float) -> list[str]:
    """Markdown: dense milliseconds by length, and what every mode could gain at most."""
    model, dense = sizes(shape), MethodConfig(policy="dense")
    pruned = MethodConfig(budget=Budget("fraction", 0.2))
    modes = (
        (f"sparse, {density:.0%} of the pairs", pruned, density),
        ("attention free", pruned, 0.0),
        ("20 % of the tokens from layer 4", replace(pruned, propagate=Propagation(4, 0.2)), 1.0),
        ("both", replace(pruned, propagate=Propagation(4, 0.2)), density),
        ("both, 35 %", replace(pruned, propagate=Propagation(4, 0.35)), density),
    )
    lines = ["| tokens | dense ms |" + "".join(f" {name} |" for name, _, _ in modes), "|---|---|" + "---|" * len(modes)]
    for tokens in lengths:
        full = seconds(model, dense, tokens, matrix, attention, 1.0, trims=False)
        gains = [full / seconds(model, config, tokens, matrix, attention, d, trims=True) for _, config, d in modes]
        lines.append(f"| {tokens} | {1000 * full:.0f} |" + "".join(f" {gain:.2f}x |" for gain in gains))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="7b")
    parser.add_argument("--tokens", default="8k,32k,64k,128k")
    parser.add_argument("--matrix", type=float, default=750, help="TFLOP/s of matrix products")
    parser.add_argument("--attention", type=float, default=560, help="TFLOP/s of attention")
    parser.add_argument("--density", type=float, default=0.28, help="share of the pairs that sparse attention reads")
    given = parser.parse_args()
    rates = (1e12 * given.matrix, 1e12 * given.attention)
    print("\n".join(table(SHAPES[given.shape], list(read_counts(given.tokens)), *rates, given.density)))


if __name__ == "__main__":
    main()
