"""One answer: the turn is fed to the model, then tokens are drawn until it stops; every step is told and measured."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from purekv_cli.errors import OutOfResources
from purekv_cli.runtime.attach import Attached, attach
from purekv_cli.runtime.background import streamed
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.detokenize import Detokenizer
from purekv_cli.runtime.embed import embed_prompt, embed_tokens
from purekv_cli.runtime.events import Answer, Event, Progress, RunStats, Text
from purekv_cli.runtime.metrics import StageClock
from purekv_cli.runtime.prompt import Prompt
from purekv_cli.runtime.sampling import Generation, Sampler

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
    prompt: Prompt | None = None  # a fresh cache for this prompt, which `ids` begin with; None: the cache goes on


def answering(session: "Session", turn: Turn, generation: Generation) -> Iterator[Event]:
    """Progress and Text as they come, and the Answer at the end; see `Engine.answer`."""
    run = _Run(session, turn, generation)
    with attach(session.engine.adapter.model, session.engine.config) as attached, _memory_errors(session):
        attached.clock = run.clock
        try:
            logits = yield from streamed(lambda emit: run.prefill(attached, emit))
        except KeyboardInterrupt:
            session.cache = session.mark = None  # some layers have read the turn, others have not
            yield run.answer("interrupted")
            raise
        try:
            yield from run.decode(attached, logits)
        except KeyboardInterrupt:
            run.forget_half_step()
            yield run.answer("interrupted")
            raise
        yield run.answer(run.finish)


class _Run:
    def __init__(self, session: "Session", turn: Turn, generation: Generation) -> None:
        self._session, self._turn, self._generation = session, turn, generation
        self._adapter = session.engine.adapter
        self._model = self._adapter.model
        self._tokens: list[int] = []
        self._text: list[str] = []
        self._fed = 0  # of the generated tokens
        self._first_token = self._decoding = 0.0
        self._started = time.perf_counter()
        self._entries = self._bytes_kept = self._bytes_full = self._peak = self._prompt_tokens = 0.0
        self.finish: Finish = "length"
        self.clock = StageClock(self._adapter.device)

    @torch.inference_mode()
    def prefill(self, attached: Attached, emit: Emit) -> Tensor:
        """Feed the turn; returns the logits [1, vocabulary] of its last token."""
        session, turn = self._session, self._turn
        if self._adapter.device.type == "cuda":
            torch.cuda.set_device(self._adapter.device)
        embeds = self._embeds(emit)
        parts = [embeds.shape[1]]
        if turn.prompt is not None:
            session.cache, session.mark, session.unfed = attached.new_cache(turn.prompt), None, []
            if turn.prompt.length < embeds.shape[1]:  # a prefix that later questions share
                parts = [turn.prompt.length, embeds.shape[1] - turn.prompt.length]
        assert session.cache is not None
        with self.clock.stage("prefill"), self._told(attached, parts, emit):
            start, hidden = 0, embeds
            for index, count in enumerate(parts):
                piece = slice(start, start + count)
                hidden = self._feed(attached, session.cache, embeds[:, piece], turn.positions[..., piece])
                start += count
                if index == 0 and len(parts) > 1:
                    session.mark = session.cache.mark()
            logits = self._logits(hidden)
        session.sparse = attached.sparse
        session.next_position = next_position(turn.positions)
        session.unfed = []
        self._measure(attached, session.cache)
        return logits

    def decode(self, attached: Attached, logits: Tensor) -> Iterator[Event]:
        """Draw tokens and feed them until the model stops or the limit is reached."""
        session, most = self._session, self._generation.max_tokens
        assert session.cache is not None
        sampler = Sampler(self._generation, logits.device)
        pieces = Detokenizer(self._adapter.tokenizer)
        while True:
            token = int(sampler.next(logits))
            now = time.perf_counter() - self._started
            if not self._tokens:
                self._first_token = now
            self._decoding = now - self._first_token
            self._tokens.append(token)
            if token in self._adapter.stop_ids:
                self.finish = "stop"
                break
            session.unfed = [token]
            yield from self._say(pieces.push(token))
            yield Progress("answer", len(self._tokens), most)
            if len(self._tokens) == most:
                self.finish = "length"
                break
            with torch.inference_mode():
                ids = torch.tensor([[token]])
                at = text_positions(self._turn.positions, session.cache.get_seq_length(), session.next_position, 1)
                logits = self._logits(self._feed(attached, session.cache, embed_tokens(self._model, ids), at))
            session.next_position += 1
            session.unfed = []
            self._fed += 1
        yield from self._say(pieces.finish())

    def forget_half_step(self) -> None:
        """After an interruption: layers that have already taken the token in hand give it back."""
        cache = self._session.cache
        if cache is not None:
            cache.rewind(int(self._prompt_tokens) + self._fed)

    def answer(self, finish: Finish) -> Answer:
        """The record of this answer, as far as it got."""
        session, clock = self._session, self.clock
        ids = tuple(t for t in self._tokens if t not in self._adapter.stop_ids)
        fresh = self._turn.prompt is not None
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
            first_token_seconds=prepare_seconds + self._first_token,
            tokens_per_second=(len(self._tokens) - 1) / self._decoding if self._decoding > 0 else 0.0,
            new_tokens=len(ids),
            sparse=session.sparse,
        )
        return Answer(self._turn.question, "".join(self._text), finish, stats, ids)

    def _embeds(self, emit: Emit) -> Tensor:
        """The turn as embeddings; the vision tower runs once per session."""
        session, turn = self._session, self._turn
        if turn.prompt is None:
            return embed_tokens(self._model, turn.ids)
        if session.embeds is None:
            emit(Progress("vision", 0, 1))
            with self.clock.stage("vision"):
                session.embeds = embed_prompt(self._model, session.inputs)
            emit(Progress("vision", 1, 1))
        known, after = session.embeds, session.inputs.layout.after
        if session.once:
            session.embeds = None
        if turn.ids is session.inputs.input_ids:
            return known
        return torch.cat([known[:, :after], embed_tokens(self._model, turn.ids[:, after:])], 1)

    def _feed(self, attached: Attached, cache: CompactCache, embeds: Tensor, positions: Tensor) -> Tensor:
        """Run the decoder; returns the last token's hidden state [1, 1, hidden]."""
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
    def _told(self, attached: Attached, parts: list[int], emit: Emit) -> Iterator[None]:
        """A Progress event after every layer of every step of the prefill."""
        layers, chunk = list(attached.decoder.layers), attached.config.chunk
        fresh = self._turn.prompt is not None
        steps = -(-parts[0] // chunk) if chunk and fresh else 1
        total, done = len(layers) * (steps + len(parts) - 1), 0

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
        kept = [(places >= 0).sum() / places.shape[1] for places in cache.kept]
        self._entries = float(torch.stack([count.cpu() for count in kept]).mean())
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
