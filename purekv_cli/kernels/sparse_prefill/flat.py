"""Keys and values as the two-dimensional tensors that the tensor memory accelerator takes blocks from."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Flat:
    """Key j of (batch b, head h) is row b * batch + h * head + j, from column h * column on."""

    key: Tensor  # [B, Hkv, N, D]
    value: Tensor  # [B, Hkv, N, D]
    key_rows: Tensor  # [rows, columns], the same memory
    value_rows: Tensor
    batch: int
    head: int
    column: int

    @property
    def where(self) -> tuple[int, int, int]:
        return self.batch, self.head, self.column


def flat(key: Tensor, value: Tensor) -> Flat:
    """No copy if both lie in memory as [B, N, Hkv, D] or as [B, Hkv, N, D]."""
    batch, heads, length, dim = key.shape
    if all(_rows_hold_heads(x) for x in (key, value)):
        shape = (batch * length, heads * dim)
        key_rows, value_rows = (x.as_strided(shape, (x.stride(2), 1)) for x in (key, value))
        return Flat(key, value, key_rows, value_rows, length, 0, dim)
    key, value = key.contiguous(), value.contiguous()
    return Flat(key, value, key.view(-1, dim), value.view(-1, dim), heads * length, length, 0)


def _rows_hold_heads(tensor: Tensor) -> bool:
    batch, _, length, dim = tensor.shape
    by_batch, by_head, by_row, by_column = tensor.stride()
    aligned = by_row * tensor.element_size() % 16 == 0 and tensor.data_ptr() % 16 == 0
    one_run = batch == 1 or by_batch == length * by_row
    return aligned and one_run and by_column == 1 and by_head == dim and by_row >= tensor.shape[1] * dim
