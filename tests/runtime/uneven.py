"""A policy as awkward as can be: every layer and every KV head keeps a number of entries of its own."""

from typing import ClassVar

import torch
from torch import Tensor

from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation


class Uneven:
    name: ClassVar[str] = "uneven"
    summary: ClassVar[str] = "for tests"
    source: ClassVar[str] = "none"
    uses_question = False

    def __init__(self, config: MethodConfig) -> None:
        self._random = torch.Generator().manual_seed(config.seed)

    def needs_lse(self, index: int) -> bool:
        return index == 0

    def score(self, seen: Observation) -> Tensor:
        return torch.rand(*seen.key.shape[:3], generator=self._random).to(seen.key.device)

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        quota = torch.as_tensor(entries).reshape(-1).expand(score.shape[0]).tolist()
        chosen = []
        for row, most in enumerate(quota):
            for head in range(score.shape[1]):
                text, video = masks.protected[row].nonzero().flatten(), masks.video[row].nonzero().flatten()
                room = int(most) - len(text)
                fewer = int(torch.randint(0, room + 1, (1,), generator=self._random))
                best = video[score[row, head, video].argsort(descending=True)[:fewer]]
                chosen.append(torch.cat([text, best]).sort().values)
        padded = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=-1)
        return padded.view(*score.shape[:2], -1)
