"""Every arm as a user would have it: a prefill of its own, real pruning, an answer generated greedily, bytes counted.

Works with every model and is slow; `replay` must come to the same answers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from purekv_cli.errors import PureKVError
from purekv_cli.eval.answers import is_right, prompt
from purekv_cli.eval.arms import Arm
from purekv_cli.eval.clipworld import frames_of
from purekv_cli.eval.records import Graded, Item, graded
from purekv_cli.models.base import Adapter
from purekv_cli.runtime.answering import next_position, text_positions
from purekv_cli.runtime.attach import attach
from purekv_cli.runtime.embed import embed_tokens
from purekv_cli.runtime.engine import Engine
from purekv_cli.runtime.events import Answer
from purekv_cli.runtime.sampling import Generation
from purekv_cli.runtime.session import Session
from purekv_cli.video.frames import Frames

LONGEST_ANSWER = 96  # tokens; the demo world's longest narration has fewer


class EngineWay:
    """Implements `records.Way` for every adapter.

    `kl` and `agreement` are known for arms that come after dense, which goes first.
    """

    def __init__(self, adapter: Adapter, longest: int = LONGEST_ANSWER) -> None:
        self._adapter, self._generation = adapter, Generation(max_tokens=longest)

    def grade(self, items: Sequence[Item], arms: Sequence[Arm], frames: Frames | None = None) -> Iterator[Graded]:
        """See `records.Way`."""
        inputs = self._adapter.prepare(frames or frames_of(items[0].video, self._adapter.geometry), prompt(items[0]))
        embeds, dense = None, dict[str, Tensor]()
        for arm in arms:
            session = Engine(self._adapter, arm.of_model(self._adapter.name)).open(inputs)
            session.embeds = embeds  # the vision tower sees a clip once, whatever is compared
            for item in items:
                try:
                    yield self._graded(session, item, arm, dense)
                except PureKVError as error:
                    yield graded(item, arm, error=str(error))
            embeds = session.embeds

    def _graded(self, session: Session, item: Item, arm: Arm, dense: dict[str, Tensor]) -> Graded:
        question = prompt(item)
        session.engine.adapter = adapter = self._adapter.after(item.talk)
        if arm.when == "known":
            session.mark = None  # the same words may end another conversation
        probe = question if arm.when == "known" else arm.probe
        with self._first_logits() as first:
            *_, answer = session.ask(question, self._generation, shared=arm.when != "prompt", probe=probe)
        assert isinstance(answer, Answer)
        asked = adapter.prefix_length(session.inputs) + adapter.tail(question).shape[1]
        assert session.cache is not None
        session.cache.rewind(asked)
        kept = sum(layer.entries * layer.entry_bytes for layer in session.cache.layers)  # without room for an answer
        logprobs = self._along(session, item, first[0], arm)
        if arm.policy == "dense":
            dense[item.id] = logprobs
        of_dense = dense.get(item.id)
        return graded(
            item,
            arm,
            answer=answer.text,
            right=is_right(item, answer.text),
            kv_bytes_full=answer.stats.kv_bytes_full,
            kv_bytes_kept=kept,
            kl=None if of_dense is None else divergence(of_dense, logprobs),
            agreement=None if of_dense is None else agreement(of_dense, logprobs),
        )

    @contextmanager
    def _first_logits(self) -> Iterator[list[Tensor]]:
        """Collects the logits [1, vocabulary] that the answer's first token was chosen by."""
        found: list[Tensor] = []

        def keep(_module: Any, _args: Any, out: Tensor) -> None:
            if not found:
                found.append(out.reshape(1, -1).clone())

        hook = self._adapter.model.get_output_embeddings().register_forward_hook(keep)
        try:
            yield found
        finally:
            hook.remove()

    @torch.inference_mode()
    def _along(self, session: Session, item: Item, first: Tensor, arm: Arm) -> Tensor:
        """Log-probabilities of the true answer's tokens and its end, float32 [m + 1, vocabulary]: fed over
        the same cache."""
        adapter, cache, inputs = self._adapter, session.cache, session.inputs
        assert cache is not None
        encoded = adapter.tokenizer.encode(item.truth, add_special_tokens=False)
        logits = first.float()
        if encoded:
            truth = torch.tensor([encoded], device=adapter.device)
            prefix = adapter.prefix_length(inputs)
            asked = cache.get_seq_length()
            start = next_position(inputs.position_ids[..., :prefix]) + asked - prefix
            positions = text_positions(inputs.position_ids, asked, start, len(encoded))
            with attach(adapter.model, arm.of_model(adapter.name)) as attached:
                out = attached.decoder(
                    inputs_embeds=embed_tokens(adapter.model, truth),
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                )
            later = adapter.model.get_output_embeddings()(out.last_hidden_state)[0]
            logits = torch.cat([logits, later.float()])
        return logits.log_softmax(-1)


def divergence(dense: Tensor, arm: Tensor) -> float:
    """KL(dense || arm) in nats, mean over the places of log-probabilities [n, vocabulary]."""
    return float((dense.exp() * (dense - arm)).sum(-1).mean().clamp(min=0.0))


def agreement(dense: Tensor, arm: Tensor) -> float:
    """Share of the places where both choose the same token first."""
    return float((dense.argmax(-1) == arm.argmax(-1)).float().mean())
