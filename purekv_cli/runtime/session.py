"""One clip and many questions: what is kept between them, and what each of them still has to feed to the model."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from purekv_cli.errors import UsageError
from purekv_cli.method.layout import VideoLayout
from purekv_cli.models.base import Inputs
from purekv_cli.runtime.answering import Turn, answering, next_position, text_positions
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.events import Event
from purekv_cli.runtime.prompt import Prompt
from purekv_cli.runtime.sampling import Generation
from purekv_cli.runtime.snapshot import Snapshot

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
        self.aside = ""  # what questions begin with that is not asked (subtitles): it does not choose what stays
        self.once = once  # no further question: the video's embeddings are freed after prefill
        self.embeds: Tensor | None = None  # [1, N, hidden] of the first prompt, video features in place
        self.deepstack: tuple[Tensor, ...] = ()  # of `Prompt`
        self.mark: int | None = None  # length of the shared prefix in the cache
        self.probe: str | None = None  # what was read after it when it was pruned; None: nothing
        self.next_position = 0  # rotary position of the next token
        self.unfed: list[int] = []  # generated, but not read by the model
        self.cache: CompactCache | None = None
        self.sparse = self.propagated = False  # how the clip was read
        self.watch: Callable[[], Inputs] | None = None  # of a resumed session: what the tower reads, where it must
        self.recall_seconds = 0.0  # that resuming took; the next answer counts it

    @classmethod
    def resume(
        cls, engine: "Engine", snapshot: Snapshot, watch: Callable[[], Inputs], *, recall_seconds: float = 0.0
    ) -> "Session":
        """Go on from a snapshot, in this process or another: the clip is not seen again.

        Args:
            watch: makes the inputs of the same clip, should the cache be lost (an answer that was interrupted) or a
                question be asked that cannot share it.
            recall_seconds: that it took to get the snapshot.
        """
        began = time.perf_counter()
        session = cls(engine, snapshot.inputs(engine.adapter.device))
        session.watch = watch
        layers = engine.adapter.model.get_decoder().layers
        session.cache = snapshot.cache([next(layer.parameters()).device for layer in layers])
        session.mark, session.probe = snapshot.mark, snapshot.probe
        session.sparse, session.propagated = snapshot.sparse, snapshot.propagated
        session.recall_seconds = recall_seconds + time.perf_counter() - began
        return session

    @property
    def kept(self) -> list[Tensor]:
        """Prompt positions in the cache, per layer int64 [1, Hkv, P], -1 in holes."""
        return [] if self.cache is None else self.cache.kept

    def first(self, question: str, generation: Generation | None = None) -> Iterator[Event]:
        """Answer the question in the inputs, with the whole prompt read before pruning.

        With `observe` "template" the question is fed over the pruned cache instead, as in `ask`: what is kept is the
        same for one question and for many.
        """
        inputs = self.inputs
        if self.engine.config.observe == "template":
            turn = self._over(question, inputs.input_ids[:, self._prefix :], "")
        else:
            turn = Turn(question, inputs.input_ids, inputs.position_ids, self._prompt(inputs.layout, question))
        return answering(self, turn, generation or Generation())

    def ask(
        self,
        question: str,
        generation: Generation | None = None,
        *,
        shared: bool | None = None,
        probe: str | None = None,
    ) -> Iterator[Event]:
        """Answer any question about the clip; what came before is forgotten.

        Where the method allows it the clip is read and pruned once, and every question is fed over what stayed: with a
        policy that never looks at the question the clip is read alone; with `observe` "template" the chat template's
        tokens follow it, without a question, and are forgotten again. The budget is then that of the clip and these
        tokens, whatever is asked: a question's own words come on top, and are counted in the statistics. Otherwise each
        question is read with the clip anew, but the vision tower runs only once.

        Args:
            shared: False reads the whole prompt before pruning whatever the policy, so that policies compare alike;
                None: where the method allows it. Nothing else is possible with `observe` "template".
            probe: asked after the video in place of the question while the cache is pruned, whatever the policy, and
                forgotten again; the budget is that of its prompt. "" is what `observe` "template" does.
        """
        return answering(self, self.turn(question, shared=shared, probe=probe), generation or Generation())

    def turn(self, question: str, *, shared: bool | None = None, probe: str | None = None) -> Turn:
        """What `ask` feeds to the model; to be fed before another is asked for."""
        if probe is None and self.engine.config.observe == "template":
            probe = ""
        tail = self.engine.adapter.tail(question)
        if probe is not None or (self.engine.shares_prefill if shared is None else shared):
            return self._over(question, tail, probe)
        return self._whole(question, tail)

    def watched(self) -> Inputs:
        """The inputs with what the vision tower reads."""
        if self.watch is not None:
            self.inputs, self.watch = self.watch(), None
        return self.inputs

    @property
    def _prefix(self) -> int:
        return self.engine.adapter.prefix_length(self.inputs)

    def _whole(self, question: str, tail: Tensor, reserve: int = 0) -> Turn:
        """The clip and `tail` [1, n] after it, in a fresh cache."""
        inputs, prefix = self.inputs, self._prefix
        start = next_position(inputs.position_ids[..., :prefix])
        after = text_positions(inputs.position_ids, prefix, start, tail.shape[1])
        ids = torch.cat([inputs.input_ids[:, :prefix], tail.to(inputs.input_ids.device)], 1)
        prompt = self._prompt(replace(inputs.layout, length=ids.shape[1]), question)
        prompt.reserve = reserve
        return Turn(question, ids, torch.cat([inputs.position_ids[..., :prefix], after], -1), prompt)

    def _prompt(self, layout: VideoLayout, question: str) -> Prompt:
        prompt = Prompt.of_layouts([layout])
        if self.aside and question.startswith(self.aside):
            prompt.observe(self.engine.adapter.tail(question.removeprefix(self.aside)).shape[1])
        return prompt

    def _over(self, question: str, tail: Tensor, probe: str | None) -> Turn:
        """`tail` [1, n] over what a pruning kept that saw the clip and `probe`; None: the clip alone."""
        whole = self._whole(question, tail)
        ids, positions = whole.ids[:, self._prefix :], whole.positions[..., self._prefix :]
        if self.mark is not None and self.cache is not None and self.probe == probe:
            self.cache.rewind(self.mark)
            return Turn(question, ids, positions)
        self.mark, self.probe = None, probe
        seen = self.engine.adapter.tail(probe or "")
        opening = self._whole("", seen) if probe is not None else self._whole("", seen[:, :0], reserve=seen.shape[1])
        return Turn(question, ids, positions, opening=opening)

    def follow_up(self, question: str, generation: Generation | None = None) -> Iterator[Event]:
        """The next turn of a chat: the cache goes on after the last answer."""
        if self.cache is None:
            raise UsageError("there is no answer to follow up", "Ask a first question before.")
        ids, _ = self.engine.adapter.follow_up(question, self.next_position + len(self.unfed))
        ids = torch.cat([torch.tensor([self.unfed], dtype=torch.int64, device=ids.device), ids], 1)
        past, count = self.cache.get_seq_length(), ids.shape[1]
        positions = text_positions(self.inputs.position_ids, past, self.next_position, count)
        return answering(self, Turn(question, ids, positions), generation or Generation())
