"""One dense prefill of a clip, kept with all that policies look at, and texts read after it.

    clip = captured(adapter, frames)
    clip.states[3].key                        # [1, Hkv, P, D]: layer 3 of the prefix, video included
    asked = clip.ask("what happens?")
    kept(asked, [MethodConfig(policy="snapkv", budget=Budget.parse("0.1"))])    # of replay_judge: positions per layer

So a new policy can be tried in a few lines: register its class in `POLICIES`, or ask its object about `asked` directly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from purekv_cli.eval.replay_forward import Past, angles, read
from purekv_cli.eval.replay_judge import ReadPrompt
from purekv_cli.method.layout import VideoLayout
from purekv_cli.models.base import Adapter, Inputs
from purekv_cli.runtime.answering import next_position, text_positions
from purekv_cli.runtime.embed import embed_prompt, embed_tokens
from purekv_cli.runtime.prompt import Prompt
from purekv_cli.runtime.states import States
from purekv_cli.runtime.weights import DecoderWeights, read_weights
from purekv_cli.video.frames import Frames


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts that each follow the clip, read densely: rows padded on the right to the longest."""

    hidden: Tensor  # [R, T, H], after the final norm
    states: list[States]  # of every layer: R rows of T tokens


@dataclass(frozen=True)
class Captured:
    """A clip's prefix of P tokens, up to and including the end of the video, after its dense prefill."""

    adapter: Adapter
    weights: DecoderWeights
    inputs: Inputs
    embeds: Tensor  # [1, P, H], video features in place
    states: list[States]  # of every layer: one row of P tokens

    @property
    def length(self) -> int:
        """P."""
        return self.embeds.shape[1]

    @property
    def entry_bytes(self) -> int:
        """K and V bytes of one entry of one layer."""
        key = self.states[0].key
        return 2 * key.shape[1] * key.shape[3] * key.element_size()

    def logprobs(self, hidden: Tensor) -> Tensor:
        """float32 [..., vocabulary] of hidden states [..., H]."""
        return (hidden @ self.weights.head.T).float().log_softmax(-1)

    @cached_property
    def next_position(self) -> int:
        """The rotary position of the first token after the prefix."""
        return next_position(self.inputs.position_ids[..., : self.length])

    @cached_property
    def pasts(self) -> list[Past]:
        """The whole prefix as what a text reads."""
        return [Past(states.key, states.value) for states in self.states]

    def positions(self, first: int, count: int) -> Tensor:
        """Positions of tokens `first` to `first + count` of any text after the prefix, as the engine gives them."""
        start = self.next_position + first
        return text_positions(self.inputs.position_ids, self.length + first, start, count)

    def turn(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """The same as cos and sin."""
        return angles(self.weights, self.embeds[0], self.positions(first, count))

    def layout(self, text: int) -> VideoLayout:
        """Of the prompt of the prefix and `text` tokens after it."""
        return replace(self.inputs.layout, length=self.length + text)

    def texts(self, ids: Sequence[Tensor]) -> Texts:
        """Read texts, int64 [n] each, as if each stood alone after the clip."""
        rows = pad_sequence(list(ids), batch_first=True)
        embeds = embed_tokens(self.adapter.model, rows)
        hidden, states = read(self.weights, embeds, self.turn(0, rows.shape[1]), self.pasts, keep=True)
        return Texts(hidden, states)

    def prompt(self, texts: Texts, row: int, count: int, room: int = 0) -> ReadPrompt:
        """The prefix and the first `count` tokens of one of the texts, to be judged by policies.

        Args:
            room: tokens that the budget has to hold besides this prompt.
        """
        prompt = Prompt.of_layouts([self.layout(count)])
        prompt.reserve = room
        states = self.states
        if count:
            states = [
                mine.then(later.part(row, slice(0, count))) for mine, later in zip(states, texts.states, strict=True)
            ]
        before = self.inputs.position_ids[..., : self.length]
        positions = torch.cat([before, self.positions(0, count)], -1)
        return ReadPrompt(prompt, states, self.weights.scaling, self.adapter.model.get_decoder(), positions)

    def ask(self, question: str) -> ReadPrompt:
        """The whole prompt of a question, to be judged by policies."""
        tail = self.adapter.tail(question)[0]
        with torch.inference_mode():
            return self.prompt(self.texts([tail]), 0, len(tail))


@torch.inference_mode()
def captured(adapter: Adapter, frames: Frames) -> Captured:
    """Read a clip densely, once.

    Raises:
        Unsupported: the decoder is not of the common build that is read straight from its weights.
    """
    weights = read_weights(adapter.model)
    inputs = adapter.prepare(frames, "")
    length = adapter.prefix_length(inputs)
    embeds = embed_prompt(adapter.model, inputs)[:, :length]
    turn = angles(weights, embeds[0], inputs.position_ids[..., :length])
    _, states = read(weights, embeds, turn, keep=True)
    return Captured(adapter, weights, inputs, embeds, states)
