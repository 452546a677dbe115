"""The own prefill and decode loop: a prompt in, events out, everything measured on the way.

An `Engine` answers one question about one clip in one go; a `Session` keeps the clip's video features, and where the
policy allows it the pruned cache too, for further questions and for the next turn of a chat. The model runs as
transformers has it; `attach` does the pruning, and only while an answer is being made.
"""

from collections.abc import Iterator

from purekv_cli.method.config import MethodConfig
from purekv_cli.method.policies import shares_prefill
from purekv_cli.models.base import Adapter, Inputs
from purekv_cli.runtime.events import Event
from purekv_cli.runtime.sampling import Generation
from purekv_cli.runtime.session import Session


class Engine:
    """Questions about clips, answered by one model with one method."""

    def __init__(self, adapter: Adapter, config: MethodConfig) -> None:
        self.adapter, self.config = adapter, config

    @property
    def shares_prefill(self) -> bool:
        """Whether several questions about a clip can share one pruned cache."""
        return shares_prefill(self.config)

    def answer(
        self,
        inputs: Inputs,
        question: str,
        generation: Generation | None = None,
        *,
        decode_seconds: float = 0.0,
        prepare_seconds: float = 0.0,
    ) -> Iterator[Event]:
        """Answer the question that `inputs` already ask.

        The whole prompt is read before the cache is pruned, whatever the policy, so policies compare alike; only with
        `observe` "template" is the question fed over the pruned cache, as `Session.ask` does.

        Args:
            inputs: of `adapter.prepare(frames, question)`.
            question: the same, for the record.
            decode_seconds, prepare_seconds: what video decoding and preprocessing took, for the statistics.

        Yields:
            Progress and Text events, and one Answer at the end.

        Raises:
            OutOfResources: memory ran out. KeyboardInterrupt: after the Answer, which is marked "interrupted".
        """
        session = Session(self, inputs, decode_seconds=decode_seconds, prepare_seconds=prepare_seconds, once=True)
        return session.first(question, generation)

    def open(self, inputs: Inputs, *, decode_seconds: float = 0.0, prepare_seconds: float = 0.0) -> Session:
        """A session about the clip of `inputs`: `ask` as often as you like, `follow_up` for chat turns."""
        return Session(self, inputs, decode_seconds=decode_seconds, prepare_seconds=prepare_seconds)
