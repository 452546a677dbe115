"""One answer: the turn is fed to the model, then tokens are drawn until it stops; every step is told and measured."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from purekv_cli.errors import OutOfResources
from purekv_cli.runtime.attach import Attached
from purekv_cli.runtime.background import streamed
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.decode_graph import GraphDecoder
from purekv_cli.runtime.detokenize import Detokenizer
from purekv_cli.runtime.embed import embed_clip, embed_tokens
from purekv_cli.runtime.events import Answer, Event, Progress, RunStats, Text
from purekv_cli.runtime.fast import fast_path
from purekv_cli.runtime.fast_prefill import fast_prefill
from purekv_cli.runtime.fast_turn import fast_turn
from purekv_cli.runtime.metrics import StageClock
from purekv_cli.runtime.prompt import Prompt
from purekv_cli.runtime.sampling import Generation, Sampler
from purekv_cli.runtime.weights import Unsupported

if TYPE_CHECKING:
    from purekv_cli.runtime.session import Session

Emit = Callable[[Event], None]
Finish = Literal["stop", "length", "interrupted"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What is fed to the model before an answer."""

    question: str
    ids: Tensor  # int64 [1, n]
    positions: Tensor  # int64 [4, 1, n], the text row first, or [1, n]
    prompt: Prompt | None = None  # of `ids`, which begin a fresh cache; None: the cache goes on
    opening: "Turn | None" = None  # read before, into a fresh cache; what follows the video in it is forgotten again


def answering(session: "Session", turn: Turn, generation: Generation) -> Iterator[Event]:
    """Progress and Text as they come, and the Answer at the end; see `Engine.answer`."""
    run, attached = _Run(session, turn, generation), Attached(session.engine.adapter.model, session.engine.config, [])
    attached.clock = run.clock
    with run.stock, _memory_errors(session):
        try:
            logits = yield from streamed(lambda emit: run.prefill(attached, emit))
        except KeyboardInterrupt:
            session.cache = session.mark = None  # some layers have read the turn, others have not
            yield run.answer("interrupted")
            raise
        try:
            yield from run.decode(attached, logits)
        except KeyboardInterrupt:
            yield run.answer("interrupted")
            raise
        yield run.answer(run.finish)


def seating(
    session: "Session", turn: Turn, generation: Generation, decoder: GraphDecoder
) -> Generator[Event, None, tuple[Tensor, Answer]]:
    """Feed the turn and give it a seat in `decoder`, where answers are generated together.

    Returns:
        The logits [1, vocabulary] of its last token, and the record of the answer as far as it got.
    """
    run, attached = _Run(session, turn, generation), Attached(session.engine.adapter.model, session.engine.config, [])
    attached.clock = run.clock
    with run.stock, _memory_errors(session):
        logits = yield from streamed(lambda emit: run.prefill(attached, emit))
        assert session.cache is not None
        decoder.seat(session.cache, session.next_position)
    return logits, run.answer("length")


class _Run:
    def __init__(self, session: "Session", turn: Turn, generation: Generation) -> None:
        self._session, self._turn, self._generation = session, turn, generation
        self._opening = turn.opening or turn
        self._adapter = session.engine.adapter
        self._model = self._adapter.model
        self._tokens: list[int] = []
        self._text: list[str] = []
        self._fast = fast_path(self._model)
        self.stock = ExitStack()  # holds the model attached as soon as something goes through transformers
        self._attached = False
        self._path: tuple[str, str] = ("", "")  # which way prefill and decoding went
        self._first_token = self._decoding = 0.0
        self._started = time.perf_counter()
        self._entries = self._bytes_kept = self._bytes_full = self._peak = self._prompt_tokens = 0.0
        self._recall, session.recall_seconds = session.recall_seconds, 0.0
        self.finish: Finish = "length"
        self.clock = StageClock(self._adapter.device)

    @torch.inference_mode()
    def prefill(self, attached: Attached, emit: Emit) -> Tensor:
        """Feed the turn; returns the logits [1, vocabulary] of its last token."""
        session, turn, opening = self._session, self._turn, self._opening
        if self._adapter.device.type == "cuda":
            torch.cuda.set_device(self._adapter.device)
        embeds = self._embeds(opening, emit)
        with self.clock.stage("prefill"):
            if opening.prompt is not None:
                session.cache, session.mark, session.unfed = attached.new_cache(opening.prompt), None, []
                hidden = self._read(attached, opening.prompt, embeds, opening.positions, emit)
                opening.prompt.deepstack = ()  # of no use once the prompt has been read
            assert session.cache is not None
            if turn.opening is not None:
                session.cache.forget(self._adapter.prefix_length(session.inputs))
                session.mark = session.cache.mark()  # later questions begin here too
                embeds = embed_tokens(self._model, turn.ids)
            if turn.prompt is None:
                hidden = self._go_on(attached, session.cache, embeds, turn.positions, emit)
            logits = self._logits(hidden)
        session.next_position = next_position(turn.positions)
        session.unfed = []
        self._measure(attached, session.cache)
        return logits

    def decode(self, attached: Attached, logits: Tensor) -> Iterator[Event]:
        """Draw tokens and feed them until the model stops or the limit is reached."""
        most = self._generation.max_tokens
        pieces = Detokenizer(self._adapter.tokenizer)
        with closing(self._draw(attached, logits)) as tokens:
            for token in tokens:
                now = time.perf_counter() - self._started
                if not self._tokens:
                    self._first_token = now
                self._decoding = now - self._first_token
                self._tokens.append(token)
                if token in self._adapter.stop_ids:
                    self.finish = "stop"
                    break
                yield from self._say(pieces.push(token))
                yield Progress("answer", len(self._tokens), most)
        yield from self._say(pieces.finish())

    def _draw(self, attached: Attached, logits: Tensor) -> Generator[int, None, None]:
        """Token ids; when it is closed, cache and session know which of them the model has read."""
        session = self._session
        assert session.cache is not None
        decoder = self._fast.decoder
        if decoder is not None:
            try:
                decoder.load(session.cache, session.next_position, self._generation.max_tokens)
            except Unsupported as reason:
                decoder, self._path = None, (self._path[0], f"transformers: {reason}")
        if decoder is None:
            yield from self._draw_stock(attached, session.cache, logits)
            return
        self._path = (self._path[0], self._fast.decode_why)
        token = -1
        try:
            for token in decoder.run(logits, self._generation):
                yield token
        finally:
            decoder.store(session.cache)
            session.next_position += decoder.fed
            session.unfed = [] if token in self._adapter.stop_ids or token < 0 else [token]

    def _draw_stock(self, attached: Attached, cache: CompactCache, logits: Tensor) -> Iterator[int]:
        session, sampler = self._session, Sampler(self._generation, logits.device)
        fed = 0
        try:
            for place in range(self._generation.max_tokens):
                if place:
                    with torch.inference_mode():
                        ids = torch.tensor([session.unfed])
                        at = text_positions(self._turn.positions, cache.get_seq_length(), session.next_position, 1)
                        logits = self._logits(self._feed(attached, cache, embed_tokens(self._model, ids), at))
                    session.next_position += 1
                    fed += 1
                token = int(sampler.next(logits))
                session.unfed = [] if token in self._adapter.stop_ids else [token]
                yield token
        finally:  # after an interruption, layers that have already taken the token in hand give it back
            cache.rewind(int(self._prompt_tokens) + fed)

    def answer(self, finish: Finish) -> Answer:
        """The record of this answer, as far as it got."""
        session, clock = self._session, self.clock
        ids = tuple(t for t in self._tokens if t not in self._adapter.stop_ids)
        fresh = self._opening.prompt is not None
        outside = session.decode_seconds, session.prepare_seconds
        decode_seconds, prepare_seconds = outside if fresh else (0.0, 0.0)
        stats = RunStats(
            prompt_tokens=int(self._prompt_tokens),
            video_tokens=len(session.inputs.layout.video),
            kept_tokens=self._entries,
            kv_bytes_full=int(self._bytes_full),
            kv_bytes_kept=int(self._bytes_kept),
            kv_bytes_peak=int(self._peak),
            decode_seconds=decode_seconds,
            vision_seconds=prepare_seconds + clock.seconds("vision"),
            prefill_seconds=clock.seconds("prefill"),
            scoring_seconds=clock.seconds("scoring"),
            first_token_seconds=prepare_seconds + self._recall + self._first_token,
            tokens_per_second=(len(self._tokens) - 1) / self._decoding if self._decoding > 0 else 0.0,
            new_tokens=len(ids),
            sparse=session.sparse,
            propagated=session.propagated,
            prefill_path=self._path[0],
            decode_path=self._path[1],
            recall_seconds=self._recall,
        )
        return Answer(self._turn.question, "".join(self._text), finish, stats, ids)

    def _embeds(self, turn: Turn, emit: Emit) -> Tensor:
        """A turn as embeddings; the vision tower runs once per session."""
        session = self._session
        if turn.prompt is None:
            return embed_tokens(self._model, turn.ids)
        if session.embeds is None:
            emit(Progress("vision", 0, 1))
            with self.clock.stage("vision"):
                embedded = embed_clip(self._model, session.watched())
                session.embeds, session.deepstack = embedded.features, embedded.deepstack
            emit(Progress("vision", 1, 1))
        turn.prompt.deepstack = session.deepstack
        known, after = session.embeds, self._adapter.prefix_length(session.inputs)
        if session.once:
            session.embeds, session.deepstack = None, ()
        if turn.ids is session.inputs.input_ids:
            return known
        return torch.cat([known[:, :after], embed_tokens(self._model, turn.ids[:, after:])], 1)

    def _read(self, attached: Attached, prompt: Prompt, embeds: Tensor, positions: Tensor, emit: Emit) -> Tensor:
        """A fresh prompt into the empty cache, fast where possible; returns the last token's hidden state."""
        session, config = self._session, attached.config
        assert session.cache is not None
        why, session.propagated = self._fast.prefill_why, False
        if self._fast.weights is not None:
            try:
                hidden = fast_prefill(
                    self._fast.weights,
                    embeds,
                    positions,
                    prompt,
                    config,
                    session.cache,
                    meter=attached.meter,
                    clock=self.clock,
                    tell=lambda done, total: emit(Progress("prefill", done, total)),
                )
            except Unsupported as reason:
                why = f"transformers: {reason}"
            else:
                session.sparse, session.propagated = session.cache.sparse, session.cache.propagated
                self._path = (why, "")
                return hidden
        self._path = (why, "")
        steps = -(-prompt.length // config.chunk) if config.chunk else 1
        with self._told(attached, steps, emit):
            hidden = self._feed(attached, session.cache, embeds, positions)
        session.sparse = attached.sparse
        return hidden

    def _go_on(self, attached: Attached, cache: CompactCache, embeds: Tensor, positions: Tensor, emit: Emit) -> Tensor:
        """A turn over what has been read, fast where possible; returns the last token's hidden state."""
        if self._fast.weights is not None:
            with suppress(Unsupported):
                tell = lambda done, total: emit(Progress("prefill", done, total))  # noqa: E731
                return fast_turn(self._fast.weights, embeds, positions, cache, tell)
        with self._told(attached, 1, emit):
            return self._feed(attached, cache, embeds, positions)

    def _feed(self, attached: Attached, cache: CompactCache, embeds: Tensor, positions: Tensor) -> Tensor:
        """Run the decoder through transformers; returns the last token's hidden state [1, 1, hidden]."""
        if not self._attached:
            self.stock.enter_context(attached.installed())
            self._attached = True
        out = attached.decoder(
            inputs_embeds=embeds, position_ids=positions.to(embeds.device), past_key_values=cache, use_cache=True
        )
        hidden: Tensor = out.last_hidden_state[:, -1:]
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._model.get_output_embeddings()(hidden)[:, -1]
        return logits

    def _say(self, piece: str) -> Iterator[Event]:
        if piece:
            self._text.append(piece)
            yield Text(piece)

    @contextmanager
    def _told(self, attached: Attached, steps: int, emit: Emit) -> Iterator[None]:
        """A Progress event after every layer of every step of a stock forward."""
        layers = list(attached.decoder.layers)
        total, done = len(layers) * steps, 0

        def tell(*_: object) -> None:
            nonlocal done
            done += 1
            emit(Progress("prefill", done, total))

        hooks = [layer.register_forward_hook(tell) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _measure(self, attached: Attached, cache: CompactCache) -> None:
        """Count the cache's tensors as they are right after prefill."""
        self._entries = fmean(
            float((layer.kept_pos >= 0).sum()) / layer.kept_pos.shape[1] if layer.has_holes else layer.entries
            for layer in cache.layers
        )
        self._prompt_tokens = cache.get_seq_length()
        self._bytes_full = self._prompt_tokens * sum(layer.entry_bytes for layer in cache.layers)
        self._bytes_kept = cache.kv_bytes()
        self._peak = max(attached.kv_bytes_peak, self._bytes_kept)


def next_position(positions: Tensor) -> int:
    """The rotary position after all of these."""
    rotary = positions[1:] if positions.dim() == 3 and positions.shape[0] == 4 else positions
    return int(rotary.amax()) + 1


def text_positions(like: Tensor, past: int, start: int, count: int) -> Tensor:
    """Positions of `count` text tokens from rotary position `start`, after `past` tokens, shaped like `like`."""
    rotary = torch.arange(start, start + count, device=like.device)
    if like.dim() == 2:
        return rotary[None]
    positions = rotary.expand(like.shape[0], 1, -1).clone()
    if like.shape[0] == 4:  # the text row counts tokens
        positions[0] = torch.arange(past, past + count, device=like.device)
    return positions


@contextmanager
def _memory_errors(session: "Session") -> Iterator[None]:
    """Out of memory, on whichever device, as the error that says what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        session.cache = session.mark = session.embeds = None
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise OutOfResources(
            f"memory ran out while answering: {first}",
            "Sample fewer frames (--max-frames), use smaller ones (--max-pixels), or set a lower --budget.",
        ) from None
