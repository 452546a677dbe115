"""One clip and many questions: what is kept between them, and what each of them still has to feed to the model."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from purekv_cli.errors import UsageError
from purekv_cli.models.base import Inputs
from purekv_cli.runtime.answering import Turn, answering, next_position, text_positions
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.events import Event
from purekv_cli.runtime.prompt import Prompt
from purekv_cli.runtime.sampling import Generation

if TYPE_CHECKING:
    from purekv_cli.runtime.engine import Engine


class Session:
    """One clip, its video features, and the cache of the last answer."""

    def __init__(
        self,
        engine: "Engine",
        inputs: Inputs,
        *,
        decode_seconds: float = 0.0,
        prepare_seconds: float = 0.0,
        once: bool = False,
    ) -> None:
        self.engine, self.inputs = engine, inputs
        self.decode_seconds, self.prepare_seconds = decode_seconds, prepare_seconds
        self.once = once  # no further question: the video's embeddings are freed after prefill
        self.embeds: Tensor | None = None  # [1, N, hidden] of the first prompt, video features in place
        self.deepstack: tuple[Tensor, ...] = ()  # of `Prompt`
        self.mark: int | None = None  # length of the shared prefix in the cache
        self.next_position = 0  # rotary position of the next token
        self.unfed: list[int] = []  # generated, but not read by the model
        self.cache: CompactCache | None = None
        self.sparse = self.propagated = False  # how the clip was read

    @property
    def kept(self) -> list[Tensor]:
        """Prompt positions in the cache, per layer int64 [1, Hkv, P], -1 in holes."""
        return [] if self.cache is None else self.cache.kept

    def first(self, question: str, generation: Generation | None = None) -> Iterator[Event]:
        """Answer the question in the inputs, with the whole prompt read before pruning."""
        inputs = self.inputs
        prompt = Prompt.of_layouts([inputs.layout])
        turn = Turn(question, inputs.input_ids, inputs.position_ids, prompt)
        return answering(self, turn, generation or Generation())

    def ask(
        self, question: str, generation: Generation | None = None, *, shared: bool | None = None
    ) -> Iterator[Event]:
        """Answer any question about the clip; what came before is forgotten.

        With a policy that never looks at the question the prompt up to the video is read and pruned once and shared;
        otherwise each question is read with the clip anew, but the vision tower runs only once.

        Args:
            shared: False reads the whole prompt before pruning whatever the policy, so that policies compare alike;
                None: where the policy allows it.
        """
        inputs, adapter = self.inputs, self.engine.adapter
        prefix = adapter.prefix_length(inputs)
        tail = adapter.tail(question).to(inputs.input_ids.device)
        start = next_position(inputs.position_ids[..., :prefix])
        count = tail.shape[1]
        positions = text_positions(inputs.position_ids, prefix, start, count)
        ids = torch.cat([inputs.input_ids[:, :prefix], tail], 1)
        whole = torch.cat([inputs.position_ids[..., :prefix], positions], -1)
        layout = replace(inputs.layout, length=prefix + count)
        turn = Turn(question, ids, whole, Prompt.of_layouts([layout]))
        if self.engine.shares_prefill if shared is None else shared:
            if self.mark is not None and self.cache is not None:
                self.cache.rewind(self.mark)
                turn = Turn(question, tail, positions)
            else:
                opening = Prompt.of_layouts([replace(layout, length=prefix)])
                opening.reserve = count
                turn = Turn(question, ids, whole, opening)
        return answering(self, turn, generation or Generation())

    def follow_up(self, question: str, generation: Generation | None = None) -> Iterator[Event]:
        """The next turn of a chat: the cache goes on after the last answer."""
        if self.cache is None:
            raise UsageError("there is no answer to follow up", "Ask a first question before.")
        ids, _ = self.engine.adapter.follow_up(question, self.next_position + len(self.unfed))
        ids = torch.cat([torch.tensor([self.unfed], dtype=torch.int64, device=ids.device), ids], 1)
        past, count = self.cache.get_seq_length(), ids.shape[1]
        positions = text_positions(self.inputs.position_ids, past, self.next_position, count)
        return answering(self, Turn(question, ids, positions), generation or Generation())
