"""Tensors are sent as they were written, in pieces, and none is believed before all of them are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.store import checked as module
from purekv_cli.store.checked import checked, digests
from purekv_cli.store.header import Damaged
from tests.runtime.tiny import DEVICE

TENSORS = {
    "keys": torch.arange(2 * 5 * 3).view(1, 2, 5, 3).bfloat16(),
    "positions": torch.tensor([[[4, -1, 7]]], dtype=torch.int32),
    "nothing": torch.empty(1, 0, 3),
}


@given(piece=st.integers(1, 70))
def test_what_is_sent_is_what_was_there(piece: int) -> None:
    before, module._PIECE = module._PIECE, piece
    try:
        sent = checked(TENSORS, digests(TENSORS), ["keys", "nothing"], DEVICE)
    finally:
        module._PIECE = before
    assert sent.keys() == {"keys", "nothing"}
    for name, tensor in sent.items():
        assert tensor.device.type == DEVICE.type
        assert torch.equal(tensor.cpu(), TENSORS[name])
        assert tensor.dtype == TENSORS[name].dtype


@pytest.mark.parametrize("away", [(), ("keys",), ("positions",)])
def test_another_bit_type_shape_or_name_is_noticed(away: tuple[str, ...]) -> None:
    known, keys = digests(TENSORS), TENSORS["keys"]
    flipped = keys.clone()
    flipped.view(torch.int16)[0, 1, 4, 2] ^= 1
    for other in (flipped, keys.view(torch.int16), keys.view(1, 5, 2, 3)):
        with pytest.raises(Damaged):
            checked(TENSORS | {"keys": other}, known, away, DEVICE)
    for names in ({"positions", "nothing"}, {*TENSORS, "more"}):
        with pytest.raises(Damaged):
            checked({name: TENSORS.get(name, keys) for name in names}, known, away, DEVICE)
