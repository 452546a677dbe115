"""Several prompts read one after the other, and their answers generated together.

A long prompt keeps a GPU busy by itself, so prompts gain nothing from company while they are read; a token of an answer
is bound by reading the weights, which is done once for all answers that are being generated. Prompts need not be alike:
every one keeps lists of its own length. An answer is the one that its prompt gets alone.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from purekv_cli.models.base import Adapter
from purekv_cli.runtime.answering import seating
from purekv_cli.runtime.decode_graph import GraphDecoder
from purekv_cli.runtime.detokenize import Detokenizer
from purekv_cli.runtime.events import Answer, Event
from purekv_cli.runtime.fast import fast_path
from purekv_cli.runtime.sampling import Generation

if TYPE_CHECKING:
    from purekv_cli.runtime.session import Session


def shared_decoder(adapter: Adapter, seats: int) -> GraphDecoder | None:
    """The decoder of a model whose answers are better generated together, else None.

    On a CPU they are not: nothing is shared there without rounding otherwise.
    """
    decoder = fast_path(adapter.model).decoder
    if decoder is None or not decoder.on_device:
        return None
    torch.cuda.set_device(adapter.device)
    return decoder if decoder.exact(seats) else None


class Together:
    """Takes up to `seats` prompts, then generates their answers; and again.

    Example:
        >>> for session, question in asked:
        ...     for event in together.take(session, question): ...
        >>> for ended in together.generate():
        ...     if ended: seat, answer = ended
    """

    def __init__(self, adapter: Adapter, decoder: GraphDecoder, generation: Generation, seats: int) -> None:
        self._adapter, self._decoder, self._generation, self._most = adapter, decoder, generation, seats
        self._seats: list[_Seat] = []
        self._need = 0  # bytes that reading a prompt took beside what stayed, the most so far

    def __len__(self) -> int:
        """Prompts that wait for their answers."""
        return len(self._seats)

    @property
    def room(self) -> bool:
        """Whether there is a seat for another prompt, and memory to read it beside those that wait."""
        if len(self._seats) >= self._most:
            return False
        if self._adapter.device.type != "cuda" or not self._seats:
            return True
        device = self._adapter.device
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free > self._need + 2 * self._decoder.kv_bytes  # the pool may have to move to a larger one

    def take(self, session: "Session", question: str) -> Iterator[Event]:
        """Read the prompt of a question, as `Session.ask` does; its events until there is an answer to generate.

        Errors: OutOfResources; those that wait already still do.
        """
        if not self._seats:
            self._decoder.clear(self._generation.max_tokens, self._most)
        cuda = self._adapter.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self._adapter.device)
            before = torch.cuda.memory_allocated(self._adapter.device)
        began = time.perf_counter()
        logits, answer = yield from seating(session, session.turn(question), self._generation, self._decoder)
        if session.mark is None:
            session.cache = None  # no later question begins in it, and it is in the pool
        if cuda:
            self._need = max(self._need, torch.cuda.max_memory_allocated(self._adapter.device) - before)
        why = fast_path(self._adapter.model).decode_why
        self._seats.append(_Seat(answer, why, logits, Detokenizer(self._adapter.tokenizer), began))

    def generate(self) -> Iterator[tuple[int, Answer] | None]:
        """After every step None or, for an answer that ended with it, its number and the answer.

        Errors: OutOfResources, and what a device may raise; the prompts are forgotten then.
        """
        seats, self._seats = self._seats, []
        if not seats:
            return
        left, most = set(range(len(seats))), self._generation.max_tokens
        logits = torch.cat([seat.logits for seat in seats])
        for tokens in self._decoder.run_together(logits, [self._generation] * len(seats)):
            now = time.perf_counter()
            ended = {index for index in left if seats[index].ends(tokens[index], self._adapter.stop_ids, most, now)}
            for index in sorted(ended):
                yield index, seats[index].answer(len(seats))
            left -= ended
            if not left:
                return
            yield None

    def forget(self) -> None:
        """Give up those that wait, and the memory they hold."""
        self._seats = []
        self._decoder.release()


@dataclass(slots=True)
class _Seat:
    """An answer in the making."""

    begun: Answer  # what is known of it from the reading of its prompt
    why: str  # which way it is generated
    logits: Tensor  # [1, vocabulary], of the prompt's last token
    pieces: Detokenizer
    began: float  # perf_counter, s
    text: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    times: tuple[float, float] = (0.0, 0.0)  # of the first token and the last
    finish: Literal["stop", "length"] = "length"

    def ends(self, token: int, stop_ids: frozenset[int], most: int, now: float) -> bool:
        """Note the next token; whether it is the last."""
        self.times = (self.times[0] if self.tokens else now, now)
        self.tokens.append(token)
        if token in stop_ids:
            self.finish = "stop"
            return True
        self.text.append(self.pieces.push(token))
        return len(self.tokens) == most

    def answer(self, together: int) -> Answer:
        """The whole record; its seconds are its own, however many shared them."""
        self.text.append(self.pieces.finish())
        ids = tuple(self.tokens[:-1] if self.finish == "stop" else self.tokens)
        first, last = self.times
        stats = replace(
            self.begun.stats,
            first_token_seconds=self.begun.stats.first_token_seconds + first - self.began,
            tokens_per_second=(len(self.tokens) - 1) / (last - first) if last > first else 0.0,
            new_tokens=len(ids),
            decode_path=self.why if together == 1 else f"{self.why}, {together} answers together",
        )
        return replace(self.begun, text="".join(self.text), finish=self.finish, stats=stats, token_ids=ids)
