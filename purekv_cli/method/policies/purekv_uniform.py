"""The default policy without what a model's preset says of its layers: what its score alone is worth."""

from typing import ClassVar

from purekv_cli.method.policies.purekv import PureKV


class PureKVUniform(PureKV):
    name: ClassVar[str] = "purekv-uniform"
    summary: ClassVar[str] = "purekv with the same budget, and all text, in every layer."
    weighs_layers: ClassVar[bool] = False
