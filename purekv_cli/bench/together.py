"""What it is worth to generate several answers together: one reading of the weights a step, for all of them.

    python -m purekv_cli.bench.together --shape 7b --tokens 8k --answers 64,256 --rows 1,2,4,8
    python -m purekv_cli.bench.together --shape demo --tokens 1k --answers 8,64          the embedded model, on a CPU

Random weights, or the embedded model's own; random prompts of one length. They are prefilled one after the other in
every row, so a row takes a prefill a prompt and its share of the decoding. Every answer of every row must have the
tokens that it has alone, else the row says so.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from purekv_cli.bench.request import TEXT_AFTER, TEXT_BEFORE, read_counts, read_grid

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from purekv_cli.bench.problem import Problem
    from purekv_cli.method.config import MethodConfig
    from purekv_cli.runtime.cache import CompactCache
    from purekv_cli.runtime.decode_graph import GraphDecoder


@dataclass(frozen=True, slots=True)
class Prompt:
    """Read, and ready to be answered."""

    cache: "CompactCache"
    logits: "Tensor"  # [1, vocabulary]
    next_position: int
    seconds: float  # of its prefill


@dataclass(frozen=True, slots=True)
class Row:
    """So many answers at once."""

    answer: int  # tokens
    together: int
    prefill: float  # s a prompt
    seconds: float  # from the copying of the caches to the last token, least of the runs
    same: bool  # whether every answer is the one it is alone

    @property
    def step(self) -> float:
        """Seconds a step."""
        return self.seconds / self.answer

    @property
    def an_hour(self) -> float:
        """Prompts an hour, prefill and answer."""
        return 3600 / (self.prefill + self.seconds / self.together)

    @property
    def tokens_a_second(self) -> float:
        """Of all answers together."""
        return self.together / self.step


def read(decoder: "GraphDecoder", problem: "Problem", config: "MethodConfig", runs: int) -> Prompt:
    """Prefill a prompt; the least time of some runs."""
    import torch

    from purekv_cli.bench.measure import seconds
    from purekv_cli.runtime.cache import CompactCache
    from purekv_cli.runtime.fast_prefill import fast_prefill

    weights, taken = decoder.weights, []
    for _ in range(runs):
        cache = CompactCache(len(weights.layers))
        found: list[Tensor] = []

        def prefill(into: CompactCache = cache, found: list["Tensor"] = found) -> None:
            hidden = fast_prefill(weights, problem.embeds, problem.positions, problem.prompt(), config, into)
            found.append(torch.nn.functional.linear(hidden, weights.head)[:, -1])

        with torch.inference_mode():
            taken.append(seconds(weights.device, prefill))
    return Prompt(cache, found[0], problem.next_position, min(taken))


def answer(decoder: "GraphDecoder", prompts: Sequence[Prompt], count: int) -> tuple[float, list[tuple[int, ...]]]:
    """Seconds, and the tokens of every prompt."""
    import torch

    from purekv_cli.bench.measure import seconds
    from purekv_cli.runtime.sampling import Generation

    steps: list[tuple[int, ...]] = []

    def generate() -> None:
        decoder.clear(count, len(prompts))
        for prompt in prompts:
            decoder.seat(prompt.cache, prompt.next_position)
        logits = torch.cat([prompt.logits for prompt in prompts])
        steps.extend(decoder.run_together(logits, [Generation(max_tokens=count)] * len(prompts)))

    taken = seconds(decoder.weights.device, generate)
    return taken, list(zip(*steps, strict=True))


def measure(
    decoder: "GraphDecoder", prompts: Sequence[Prompt], answers: Sequence[int], rows: Sequence[int], runs: int
) -> list[Row]:
    """A row for each length of an answer and each number of them."""
    prefill = min(prompt.seconds for prompt in prompts)
    found = []
    for count in answers:
        alone = [answer(decoder, [prompt], count)[1][0] for prompt in prompts]
        for together in rows:
            some = prompts[:together]
            answer(decoder, some, count)  # captures its graph
            tried = [answer(decoder, some, count) for _ in range(runs)]
            same = all(tokens == alone[:together] for _, tokens in tried)
            found.append(Row(count, together, prefill, min(taken for taken, _ in tried), same))
    return found


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown. Gains are against the fewest answers at a time, of the same length."""
    head = ["tokens an answer", "together", "ms a step", "tokens/s each", "tokens/s in all", "gain"]
    head += ["prompts an hour", "gain", "the same tokens as alone"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        one = min((other for other in rows if other.answer == row.answer), key=lambda other: other.together)
        cells = [f"{row.answer}", f"{row.together}", f"{row.step * 1e3:.2f}", f"{1 / row.step:.0f}"]
        cells += [f"{row.tokens_a_second:.0f}", f"{row.tokens_a_second / one.tokens_a_second:.2f}x"]
        cells += [f"{row.an_hour:.0f}", f"{row.an_hour / one.an_hour:.2f}x", "yes" if row.same else "NO"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def problems(model: "PreTrainedModel", tokens: int, grid: tuple[int, int], count: int) -> list["Problem"]:
    """Random prompts of about that many tokens."""
    from purekv_cli.bench.problem import synthetic

    steps = max(1, round((tokens - TEXT_BEFORE - TEXT_AFTER) / (grid[0] * grid[1])))
    return [synthetic(model, str(tokens), steps, grid, seed) for seed in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="7b")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tokens", default="8k", help="length of the prompts, about")
    parser.add_argument("--grid", default="17x23", help="video tokens of a frame pair, rows x columns")
    parser.add_argument("--answers", default="64,256", help="tokens of an answer")
    parser.add_argument("--rows", default="1,2,4,8", help="answers together")
    parser.add_argument("--budget", default="0.2")
    parser.add_argument("--propagate", default="off")
    parser.add_argument("--runs", type=int, default=2)
    given = parser.parse_args()
    from purekv_cli.bench.shapes import build
    from purekv_cli.method.budget import Budget
    from purekv_cli.method.config import MethodConfig, Propagation
    from purekv_cli.models.placement import choose_device, choose_dtype
    from purekv_cli.models.registry import DEMO, load, resolve
    from purekv_cli.report.units import size, span
    from purekv_cli.runtime.decode_graph import GraphDecoder

    device = choose_device(given.device)
    dtype = choose_dtype(given.dtype, device)
    (tokens,), rows = read_counts(given.tokens), read_counts(given.rows)
    config = MethodConfig(budget=Budget.parse(given.budget), propagate=Propagation.parse(given.propagate))
    if given.shape == DEMO:
        model = load(resolve(DEMO), given.dtype, str(device)).model
    else:
        model = build(given.shape, device, dtype)
    decoder = GraphDecoder(model)
    asked = problems(model, tokens, read_grid(given.grid), max(rows))
    prompts = [read(decoder, problem, config, given.runs) for problem in asked]
    kept, kind = prompts[0].cache.kv_bytes(), str(model.dtype).removeprefix("torch.")
    lines = table(measure(decoder, prompts, read_counts(given.answers), rows, given.runs))
    print(
        f"shape {given.shape}, {kind} on {device}: {asked[0].tokens} tokens a prompt, "
        f"{size(kept)} kept of each, prefill {span(min(prompt.seconds for prompt in prompts))}; "
        f"kernels: {decoder.kernels.name}, {decoder.no_graph or 'one graph launch a step'}"
    )
    if not decoder.exact(max(rows)):
        print("On this device products of several vectors differ from those of each: batch would not use them.")
    print("\n".join(["", *lines]))


if __name__ == "__main__":
    main()
