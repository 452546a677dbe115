"""Every policy by name, ours and the baselines: what can stand behind --policy."""

from purekv_cli.errors import unknown
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.policies.base import Observation, Policy
from purekv_cli.method.policies.dense import Dense
from purekv_cli.method.policies.knorm import KNorm
from purekv_cli.method.policies.purekv import PureKV
from purekv_cli.method.policies.purekv_paper import PureKVPaper
from purekv_cli.method.policies.random import Random

__all__ = ["POLICIES", "Observation", "Policy", "make"]

POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (PureKV, PureKVPaper, Dense, Random, KNorm)}


def make(name: str, config: MethodConfig) -> Policy:
    """A fresh policy for one prefill."""
    if name not in POLICIES:
        raise unknown("policy", name, POLICIES)
    return POLICIES[name](config)
