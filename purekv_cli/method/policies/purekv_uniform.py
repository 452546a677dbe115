"""The default policy without a model's calibrated layer weights: what its score alone is worth."""

from typing import ClassVar

from purekv_cli.method.policies.purekv import PureKV


class PureKVUniform(PureKV):
    name: ClassVar[str] = "purekv-uniform"
    summary: ClassVar[str] = "purekv with the same budget in every layer: nothing is calibrated."
    weighs_layers: ClassVar[bool] = False
