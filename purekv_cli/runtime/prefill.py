"""One prefill: every layer attends, is scored, and is pruned before the next one runs (active pruning).

Beside the compact cache at most one layer's full K and V exist, plus the layers whose policy has no score for them yet.
A prompt may come in chunks. A policy that never looks at the question judges every chunk by itself, with its share of
the budget, so memory stays bounded; one that does has to hold all entries until the question has been read, and the
last chunk prunes layer by layer.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from purekv_cli.errors import UsageError
from purekv_cli.kernels.attention import attention
from purekv_cli.kernels.sparse_prefill import sparse_prefill
from purekv_cli.method.budget import layer_entries
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.importance import observed_rows
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.pattern import RunList
from purekv_cli.method.policies import drops_preamble, layer_weights, make, observes
from purekv_cli.method.policies.base import Observation, Policy, Rotary, dropping
from purekv_cli.runtime.cache import CompactLayer
from purekv_cli.runtime.metrics import KVMeter, StageClock
from purekv_cli.runtime.prompt import Prompt, cut
from purekv_cli.runtime.rotary import rotary_of


class Prefill:
    """Attention and pruning of one prompt (a batch of them) over all layers and chunks."""

    def __init__(
        self,
        config: MethodConfig,
        prompt: Prompt,
        layers: int,
        bytes_per_token: int,
        *,
        runs: RunList | None = None,
        meter: KVMeter | None = None,
        clock: StageClock | None = None,
        decoder: Any = None,
        positions: Tensor | None = None,
    ) -> None:
        """`decoder` and the prompt's rotary `positions`: for policies that look at weights or angles."""
        self._config, self._prompt, self._layers = config, prompt, layers
        self._runs, self._meter, self._clock = runs, meter or KVMeter(), clock
        self._policy: Policy = make(config.policy, config)
        self._decoder, self._positions = decoder, positions
        self._entries = prompt.entries(config, bytes_per_token)
        self._weights = layer_weights(config, layers)
        texts, lengths = (each.sum(-1).tolist() for each in (prompt.masks.preamble, prompt.masks.valid))
        self._bare = [  # of every prompt, whether each layer drops the text before the video
            drops_preamble(config, layers, text, entries, length)
            for text, entries, length in zip(texts, self._entries, lengths, strict=True)
        ]
        self._prunes = any(e < n for e, n in zip(self._entries, prompt.masks.valid.sum(-1).tolist(), strict=True))
        self._holds = self._policy.uses_question  # every entry until the whole prompt has been read
        self._rows: dict[int, list[tuple[Tensor, Tensor | None]]] = {}  # what earlier chunks' question rows showed
        self._waiting: list[tuple[int, CompactLayer, float]] = []
        self._rotary: Rotary | None = None
        self._dropper = dropping(self._policy) if self._prunes else None
        self._flows: Tensor | None = None  # bool [B, N], once tokens have ended: no layer above reads the others
        self.sparse = False  # whether ST-SpAttn has run

    @property
    def holds(self) -> bool:
        """Whether all entries have to wait for the question before any can be pruned."""
        return self._holds or not self._prunes

    def over(self, tokens: int) -> bool:
        """Whether the prompt has been read once that many tokens are in the cache."""
        return tokens >= self._prompt.length

    def begin(self, start: int, stop: int) -> None:
        """The next forward brings prompt tokens [start, stop)."""
        self._start, self._stop = start, stop
        if self._dropper is not None and stop - start < self._prompt.length:
            raise UsageError(
                f"the policy {self._policy.name} ends tokens inside the model: it cannot read a prompt in chunks",
                "Leave out the chunk size, or choose another policy.",
            )
        if self._holds:
            self._from, self._to = 0, self._prompt.length
        else:
            self._from, self._to = start, stop
            if start:
                self._policy = make(self._config.policy, replace(self._config, seed=self._config.seed + start))
        self._masks = {m.video.device: m for m in [cut(self._prompt.masks, self._from, self._to)]}
        masks = self._prompt.masks
        droppable = masks.video | masks.preamble if any(map(any, self._bare)) else masks.video
        self._judges = (
            self._prunes
            and (stop == self._prompt.length or not self._holds)
            and bool(droppable[:, self._from : self._to].any())
        )
        self._quota = [self._shares(row) for row in range(self._prompt.batch)] if self._judges else []

    def attend(
        self,
        layer: CompactLayer,
        index: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        valid: Tensor | None,
        scaling: float,
    ) -> Tensor:
        """Attention of layer `index` over its entries, which `layer` already holds; then its pruning.

        Args:
            query: [B, Hq, n, D], rotated. key, value: [B, Hkv, P, D], all entries of the layer.
            valid: bool [B, tokens so far], False where padded; None: nowhere.

        Returns:
            [B, Hq, n, D].
        """
        self._meter.watch(key, value)
        need = self._prunes and (self._judges or self._holds) and self._policy.needs_lse(index)
        lse = None
        runs = self._runs if self._flows is None else None
        if self._flows is not None:
            valid = self._flows if valid is None else valid & self._flows.to(valid.device)
        if runs is not None and query.shape[2] == self._prompt.length and not self._policy.needs_lse(index):
            out = self._sparse(runs, query, key, value, scaling)
        else:
            mask = layer.readable(valid)
            out, lse = attention(query, key, value, scaling, causal=True, mask=mask, need_lse=need)
        if not self._prunes:
            return out
        if self._clock is None:
            self._observe(layer, index, query, lse, scaling)
        else:
            with self._clock.part("scoring"):
                self._observe(layer, index, query, lse, scaling)
        return out

    def _sparse(self, runs: RunList, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """ST-SpAttn. Its order of keys is a matter of this call only: cache and policies see the prompt's."""
        self.sparse = True
        order = runs.key_order.to(query.device)
        key, value = key.index_select(2, order), value.index_select(2, order)
        self._meter.watch(key, value)
        return sparse_prefill(query, key, value, runs, scaling)[0]

    def _observe(self, layer: CompactLayer, index: int, query: Tensor, lse: Tensor | None, scaling: float) -> None:
        seen: Tensor | None = query
        if self._holds and query.shape[2] < self._prompt.length:
            rows = self._rows.setdefault(index, [])
            first = max(0, self._first_row - self._start)
            if first < query.shape[2]:
                kept = query[:, :, first:].clone() if first else query  # a view would keep the whole chunk's rows
                rows.append((kept, None if lse is None else lse[:, :, first:]))
            if not self._judges:
                return
            seen = torch.cat([q for q, _ in rows], 2)
            lse = None if lse is None else torch.cat([part for _, part in rows if part is not None], 2)
            del self._rows[index]
        if not self._judges:
            layer.settled = layer.entries
            return
        score = self._policy.score(self._observation(layer, index, seen, lse, scaling))
        if score is None:
            self._waiting.append((index, layer, scaling))
            if index == self._layers - 1:
                raise RuntimeError(f"the policy {self._policy.name!r} gave no score up to the last layer")
            return
        self._prune(layer, index, score)  # before any other is scored: a policy may remember whose score it gave last
        for below, waiter, scale in self._waiting:
            late = self._policy.score(self._observation(waiter, below, None, None, scale))
            if late is None:
                raise RuntimeError(f"the policy {self._policy.name!r} gave no score for layer {below}")
            self._prune(waiter, below, late)
        self._waiting.clear()
        if self._dropper is not None and index == self._dropper.ends_at(self._layers) < self._layers - 1:
            self._end(index, score)

    def _end(self, index: int, score: Tensor) -> None:
        """What the policy drops here is hidden from every layer above: for the others this is as if it had ended."""
        assert self._dropper is not None
        masks = self._masks_on(score.device)
        flows = self._dropper.flows(score, self._budget(index, score.device), masks)
        part = replace(masks, video=masks.video & flows, after=masks.after & flows, valid=masks.valid & flows)
        self._flows, self._masks = flows, {score.device: part}

    @property
    def _first_row(self) -> int:
        """The first prompt position whose attention a held policy looks at."""
        rows = observed_rows(self._prompt.masks, observes(self._config)).any(0).nonzero()
        return int(rows[0]) if len(rows) else self._prompt.length - 1

    def _observation(
        self, layer: CompactLayer, index: int, query: Tensor | None, lse: Tensor | None, scaling: float
    ) -> Observation:
        key, value, _ = layer.stored()
        first, masks, out = layer.settled, self._masks_on(key.device), None
        if self._decoder is not None:
            out = getattr(getattr(self._decoder.layers[index].self_attn, "o_proj", None), "weight", None)
            out = out.data if out is not None and out.is_floating_point() else None
        key, value, rotary = key[:, :, first:], value[:, :, first:], self._angles(key)
        return Observation(index, self._layers, query, key, value, lse, scaling, masks, out, rotary)

    def _angles(self, like: Tensor) -> Rotary | None:
        """Of the positions that are judged; None if the policy does not ask for them or they are not known."""
        if not getattr(self._policy, "needs_rotary", False) or self._decoder is None or self._positions is None:
            return None
        if self._positions.shape[-1] < self._prompt.length:
            return None
        if self._rotary is None or self._rotary.cos.device != like.device:
            self._rotary = rotary_of(self._decoder.rotary_emb, self._positions, like)
        judged = slice(self._from, self._to)
        return replace(self._rotary, cos=self._rotary.cos[:, judged], sin=self._rotary.sin[:, judged])

    def _masks_on(self, device: torch.device) -> PromptMasks:
        if device not in self._masks:
            home = next(iter(self._masks.values()))
            self._masks[device] = home.map(lambda each: each.to(device))
        return self._masks[device]

    def _prune(self, layer: CompactLayer, index: int, score: Tensor) -> None:
        rows = self._policy.select(score, self._budget(index, score.device), self._choice(index, score.device))
        if rows.shape[-1] < layer.entries - layer.settled or bool((rows < 0).any()):
            layer.prune(rows, layer.settled)
            self._meter.watch(layer.keys, layer.values)
        layer.settled = layer.entries

    def _choice(self, index: int, device: torch.device) -> PromptMasks:
        """Of the tokens that layer `index` may keep."""
        masks, bare = self._masks_on(device), [layers[index] for layers in self._bare]
        return masks.without_preamble(torch.tensor(bare, device=device)) if any(bare) else masks

    def _budget(self, index: int, device: torch.device) -> int | Tensor:
        """Entries that layer `index` keeps of what is judged now; of every prompt where there are several."""
        entries = [shares[index] for shares in self._quota]
        return entries[0] if len(entries) == 1 else torch.tensor(entries, device=device)

    def _shares(self, row: int) -> list[int]:
        """Entries of prompt `row` that each layer may keep of the tokens now judged: their text, their part of the
        video's budget."""
        masks = self._prompt.masks
        video, text = masks.video[row], masks.protected[row]
        own, preamble = (int(each[self._from : self._to].sum()) for each in (text, masks.preamble[row]))
        budget, total = self._entries[row] - int(text.sum()), int(video.sum())
        if total == 0:
            return [own] * self._layers
        before, through = int(video[: self._from].sum()), int(video[: self._to].sum())
        entries = own + budget * through // total - budget * before // total
        texts = [own - preamble if bare else own for bare in self._bare[row]]
        return layer_entries(entries, texts, through - before, self._weights)
