"""What a prefill asks of the default policy: a layer's own choice, and what may still be wanted above."""

import pytest
import torch

from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.runtime.fast_scoring import Flow, Pooled, Shown
from tests.method.prompts import prompt


@pytest.mark.parametrize("carry", [0.0, 0.3, 1.0])
def test_which_tokens_flow_on_is_asked_of_all_layers_so_far(carry: float) -> None:
    """However quietly lower layers speak in a layer's own choice; also once some tokens have ended."""
    masks = PromptMasks.of([prompt((3, 2, 4), before=2, after=5)])
    length = masks.video.shape[1]
    observed, flow = torch.arange(length - 5, length), Flow(masks)
    generator = torch.Generator().manual_seed(0)
    going = torch.tensor([*range(0, length - 5, 2), *observed.tolist()])

    quiet, full = (Pooled(MethodConfig(carry=each), 0.5, observed, masks, 4) for each in (carry, 1.0))
    for index in range(4):
        query, key = (torch.randn(1, heads, flow.count, 8, generator=generator) for heads in (4, 2))
        shown = Shown(index, query[:, :, -5:], None, key, key, None, None)
        own, loudest = quiet.score(shown, flow), full.score(shown, flow)
        assert own is not None
        assert loudest is not None
        assert torch.equal(quiet.so_far(own), loudest)
        assert bool((own <= loudest).all())
        assert torch.equal(own, loudest) == (index == 0 or carry == 1)
        if index == 1:
            flow = flow.narrowed(going)
            quiet.narrow(going)
            full.narrow(going)
