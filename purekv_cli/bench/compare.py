"""The bench itself: at every length every arm is warmed up, looked at once without the clock, then timed in turns.

Turns (stock, ours, stock, ours, ...) let a clock that drifts favour nobody. Memory and bytes are taken in the run that
is not timed, because watching costs time. An arm that fails or runs out of memory says so in its row; the others go on.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from purekv_cli.bench import engines
from purekv_cli.bench.arms import arms
from purekv_cli.bench.first_token import FromFile
from purekv_cli.bench.kernel_checks import kernel_checks
from purekv_cli.bench.long_checks import long_checks
from purekv_cli.bench.measure import peak_memory, reset_peak, synchronize
from purekv_cli.bench.method_checks import method_checks, model_check
from purekv_cli.bench.problem import Problem, synthetic
from purekv_cli.bench.request import TEXT_AFTER, TEXT_BEFORE, Request
from purekv_cli.bench.result import Costs, Result, Row, Times, Walk
from purekv_cli.bench.work import Sizes
from purekv_cli.errors import PureKVError, UsageError
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import VideoLayout
from purekv_cli.method.pattern import build, content_change
from purekv_cli.runtime.metrics import KVMeter, StageClock

Tell = Callable[[str], None]
T = TypeVar("T")
_GATE_TOKENS = 2048  # where no length was asked for
_GATE_PROMPTS = 3


@dataclass(slots=True)
class _Lane:
    """An arm at work: its row, and an engine of its own so that no arm pays for another's buffers."""

    row: Row
    engine: engines.Engine


class Bench:
    """One model, one device; fills a `Result`."""

    def __init__(
        self,
        model: PreTrainedModel,
        request: Request,
        base: MethodConfig,
        result: Result,
        tell: Tell,
        source: FromFile | None = None,
    ) -> None:
        self._model, self._request, self._base, self._result, self._tell = model, request, base, result, tell
        self._source = source
        self._device, self._sizes = model.device, Sizes.of(model)

    def run(self) -> None:
        """Gate, then the file, then every length; Ctrl-C leaves what is measured so far."""
        try:
            with torch.inference_mode():
                self._gate()
                if self._source is not None:
                    self._file(self._source)
                for tokens in self._request.tokens:
                    self._length(tokens)
        except KeyboardInterrupt:
            self._result.interrupted = True

    def _gate(self) -> None:
        request, checks = self._request, self._result.checks
        self._tell("gate: kernels against their references")
        checks.extend(kernel_checks(self._device, self._model.dtype))
        self._tell("gate: a tiny model, pruned against masked")
        checks.extend(method_checks(self._device, request.policies))
        self._tell("gate: logits of the model at hand")
        dense = arms(request, self._base)[0].config
        shortest = min(request.tokens, default=_GATE_TOKENS)
        problems = [self._problem(shortest, request.seed + more) for more in range(_GATE_PROMPTS)]
        checks.append(model_check(self._model, problems, dense))
        self._free()

    def _problem(self, tokens: int, seed: int) -> Problem:
        request = self._request
        return synthetic(self._model, label(tokens), request.steps(tokens), request.grid, seed)

    def _length(self, tokens: int) -> None:
        request, problem = self._request, self._problem(tokens, self._request.seed)
        self._tell(f"{problem.label}: gate")
        sparse = self._base.sparse if engines.uses_sparse(self._base, problem.prompt()) else None
        self._result.checks.extend(long_checks(problem, self._sizes, sparse))
        self._free()
        weights = self._allocated()
        lanes = []
        for arm in arms(request, self._base):
            row = Row(problem.label, problem.tokens, arm)
            self._result.rows.append(row)
            self._tell(f"{problem.label}: warming up {arm.name}")
            held = self._allocated() - weights  # by the arms before
            make = engines.Stock if arm.is_stock else engines.ours
            if lane := self._guarded(row, partial(self._prepare, row, make, problem, held)):
                lanes.append(lane)
        for run in range(request.runs):
            for lane in lanes:
                if lane.row.failure is None:
                    self._tell(f"{problem.label}: run {run + 1} of {request.runs}, {lane.row.arm.name}")
                    times = self._guarded(lane.row, partial(self._timed, lane, problem))
                    lane.row.runs += [times] if times else []
        lanes.clear()
        self._free()

    def _prepare(
        self, row: Row, make: Callable[[PreTrainedModel], engines.Engine], problem: Problem, held: int
    ) -> _Lane:
        request, config = self._request, row.arm.config
        lane = _Lane(row, make(self._model))
        if config.propagate is not None and not lane.engine.propagates:
            raise UsageError(f"the {lane.engine.name} engine knows no propagation", "Bench it with --propagate off.")
        watched = config.policy == "dense"  # nothing is scored there, so the run that is watched warms up as well
        for _ in range(request.warmup - watched):
            self._timed(lane, problem)
        meter, clock = KVMeter(), StageClock(self._device)
        reset_peak(self._device)
        read = lane.engine.prefill(problem, config, meter, clock)
        kept = lane.engine.kv_bytes(read)
        lane.engine.start(read, request.max_tokens)
        lane.engine.decode(read, request.max_tokens)
        peak = peak_memory(self._device)
        row.costs = Costs(
            scoring=clock.seconds("scoring"),
            kv_kept=kept,
            kv_peak=max(meter.peak, kept),
            memory_peak=None if peak is None else peak - held,
            flops=self._flops(lane, problem, read.sparse),
            floor=self._sizes.decode_floor(kept, self._result.limits.bandwidth),
            sparse=read.sparse,
        )
        return lane

    def _file(self, source: FromFile) -> None:
        """The whole wait from the file on; the first runs warm up everything that a process keeps."""
        request = self._request
        lanes = []
        for arm in arms(request, self._base):
            walk = Walk(source.name, 0, arm)
            self._result.walks.append(walk)
            lanes.append((walk, engines.Stock(self._model) if arm.is_stock else engines.ours(self._model)))
        for run in range(-request.warmup, request.runs):
            for walk, engine in lanes:
                if walk.failure is not None:
                    continue
                step = f"run {run + 1} of {request.runs}" if run >= 0 else "warming up"
                self._tell(f"{walk.label}: {step}, {walk.arm.name}")
                found = self._guarded(walk, partial(source.prefilled, walk.arm, engine, request.max_tokens))
                if found and run >= 0:
                    walk.runs.append(found[0])
                    walk.tokens = found[1]
        lanes.clear()
        self._free()

    def _flops(self, lane: _Lane, problem: Problem, sparse: bool) -> float:
        """Of one prefill of this lane; how dense its patterns are is counted."""
        config, text = lane.row.arm.config, TEXT_BEFORE + TEXT_AFTER
        density = above = 1.0
        if sparse:
            layout, change = problem.layout, content_change(problem.video, problem.layout.grid)
            density = build(layout, config.sparse, change).density
            flow = self._sizes.flow(config, problem.tokens, text)
            if config.sparse.min_tokens <= flow < problem.tokens:  # those that flow read by a pattern of their own
                above = build(layout, config.sparse, change, only=spread_over(layout, flow)).density
        trims = lane.engine.trims and config.policy != "dense"
        return self._sizes.prefill_flops(config, problem.tokens, text, density, above=above, trims=trims)

    def _timed(self, lane: _Lane, problem: Problem) -> Times:
        engine, count = lane.engine, self._request.max_tokens
        synchronize(self._device)
        begin = time.perf_counter()
        read = engine.prefill(problem, lane.row.arm.config)
        synchronize(self._device)
        prefilled = time.perf_counter()
        engine.start(read, count)
        started = time.perf_counter()
        engine.decode(read, count)
        ended = time.perf_counter()
        return Times(prefilled - begin, started - begin, (ended - started) / count)

    def _guarded(self, row: Row | Walk, work: Callable[[], T]) -> T | None:
        """What `work` gives; None when it failed, with the reason in the row."""
        try:
            return work()
        except (MemoryError, RuntimeError) as error:
            memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
            row.failure = "out of memory" if memory else _first_line(error)
        except PureKVError as error:
            row.failure = f"{error}. {error.hint}"
        except Exception as error:  # a bench of several arms is worth more than its first failure
            row.failure = _first_line(error)
        row.runs.clear()
        self._free()
        return None

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated(self._device) if self._device.type == "cuda" else 0

    def _free(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def spread_over(layout: VideoLayout, count: int) -> Tensor:
    """Text and as many video tokens, evenly spread, as make `count`: a stand-in for those that a policy lets flow."""
    text = torch.ones(layout.length, dtype=torch.bool)
    text[layout.video] = False
    wanted = count - int(text.sum())
    video = layout.video[torch.linspace(0, len(layout.video) - 1, wanted).round().long()]
    return torch.cat([text.nonzero().flatten(), video]).unique()


def label(tokens: int) -> str:
    """8192 -> "8k", 700 -> "700"."""
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
