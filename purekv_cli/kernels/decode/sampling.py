"""The next token drawn on the device, inside the graph: the host never sees logits and nobody waits for it.

Drawing from softmax(scores) is taking the largest score after adding Gumbel noise (Maddison et al., 2014), so greedy
and seeded decoding are the same search for a maximum. The noise is a function of seed, number of the draw and token
(Philox), without state that a graph would have to carry: the same seed gives the same answer on the same machine, but
not the draws that torch makes on a CPU. The last program of all to finish also moves the step counter on.
"""

# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from purekv_cli.kernels.decode.chain import chained

_TOKENS = 2048  # per program


@triton.jit
def _draw(
    logits_ptr,
    size,
    dials_ptr,
    seed_ptr,
    step_ptr,
    tokens_ptr,
    best_ptr,
    which_ptr,
    done_ptr,
    GREEDY: tl.constexpr,
    TOKENS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    SLOTS: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """tokens[step + 1, s] = argmax over i of logits[s, i] / temperature + noise, not below the floor; step += 1."""
    if CHAINED:
        gdc_wait()
        gdc_launch_dependents()
    program = tl.program_id(0)
    seat = tl.program_id(1)
    seats = tl.num_programs(1)
    logits_ptr += seat.to(tl.int64) * size
    dials_ptr += seat * 2
    best_ptr += seat * PROGRAMS
    which_ptr += seat * PROGRAMS
    token = program * TOKENS + tl.arange(0, TOKENS)
    draw = tl.load(step_ptr) + 1
    score = tl.load(logits_ptr + token, mask=token < size, other=float("-inf"))
    if not GREEDY:
        floor = tl.load(dials_ptr + 1)
        left = score >= floor
        seed = tl.load(seed_ptr + seat)
        number = draw.to(tl.int32) + tl.zeros([TOKENS], tl.int32)
        zero = tl.zeros([TOKENS], tl.int32)
        bits, _, _, _ = tl.philox(seed, token, number, zero, zero)
        uniform = tl.maximum(tl.uint_to_uniform_float(bits), 1e-10)
        noise = -tl.log(tl.maximum(-tl.log(uniform), 1e-10))
        score = tl.where(left, score / tl.load(dials_ptr) + noise, float("-inf"))
    best, where = tl.max(score, 0, return_indices=True)
    tl.store(best_ptr + program, best)
    tl.store(which_ptr + program, program * TOKENS + where)
    tl.debug_barrier()
    if tl.atomic_add(done_ptr + 1 + seat, 1) == PROGRAMS - 1:
        slot = tl.arange(0, SLOTS)
        bests = tl.load(best_ptr + slot, mask=slot < PROGRAMS, other=float("-inf"), cache_modifier=".cg")
        whiches = tl.load(which_ptr + slot, mask=slot < PROGRAMS, other=0, cache_modifier=".cg")
        highest = tl.max(bests, 0)
        winner = tl.min(tl.where(bests == highest, whiches, size), 0)
        tl.store(tokens_ptr + draw * seats + seat, winner.to(tl.int64))
        tl.store(done_ptr + 1 + seat, 0)
        if tl.atomic_add(done_ptr, 1) == seats - 1:
            tl.store(step_ptr, draw)
            tl.store(done_ptr, 0)


def draw(logits: Tensor, dials: Tensor, seed: Tensor, step: Tensor, tokens: Tensor, done: Tensor, greedy: bool) -> None:
    """Append a token of every sequence to `tokens` and count them once.

    Args:
        logits: float32 [S, vocabulary].
        dials: float32 [S, 2], temperature and the lowest logit that may be drawn; not read when greedy.
        seed: int64 [S].
        step: int64 [1], the number of the last tokens; the new ones are written behind them.
        tokens: int64 [n, S].
        done: int32 [1 + S], zero before and after.
    """
    seats, size = logits.shape
    programs = triton.cdiv(size, _TOKENS)
    best = torch.empty(seats, programs, dtype=torch.float32, device=logits.device)
    which = torch.empty(seats, programs, dtype=torch.int32, device=logits.device)
    _draw[(programs, seats)](
        logits,
        size,
        dials,
        seed,
        step,
        tokens,
        best,
        which,
        done,
        GREEDY=greedy,
        TOKENS=_TOKENS,
        PROGRAMS=programs,
        SLOTS=triton.next_power_of_2(programs),
        num_warps=4,
        **chained(logits.device),
    )


def nucleus_floor(logits: Tensor, temperature: Tensor, top_p: Tensor) -> Tensor:
    """The lowest logit of one sequence's nucleus, float32 [1]: the likeliest tokens that reach top_p together.

    Of tokens that tie at the border all stay, where a sort would choose some of them.
    """
    ascending, _ = logits.sort()
    below = (ascending / temperature).softmax(0).cumsum(0) <= 1.0 - top_p
    return ascending.index_select(0, below.sum().clamp(max=logits.shape[0] - 1).reshape(1))
