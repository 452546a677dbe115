"""Every policy by name, ours and the baselines: what can stand behind --policy."""

from purekv_cli.errors import UsageError, unknown
from purekv_cli.method.config import MethodConfig, Observe
from purekv_cli.method.policies.adakv import AdaKV
from purekv_cli.method.policies.base import Observation, Policy
from purekv_cli.method.policies.criticalkv import CriticalKV
from purekv_cli.method.policies.dense import Dense
from purekv_cli.method.policies.expected_attention import ExpectedAttention
from purekv_cli.method.policies.fastkv import FastKV
from purekv_cli.method.policies.fastv import FastV
from purekv_cli.method.policies.h2o import H2O
from purekv_cli.method.policies.infinipot_v import InfiniPotV
from purekv_cli.method.policies.knorm import KNorm
from purekv_cli.method.policies.mixkv import MixKV
from purekv_cli.method.policies.purekv import PureKV
from purekv_cli.method.policies.purekv_paper import PureKVPaper
from purekv_cli.method.policies.purekv_uniform import PureKVUniform
from purekv_cli.method.policies.pyramidkv import PyramidKV
from purekv_cli.method.policies.random import Random
from purekv_cli.method.policies.snapkv import SnapKV
from purekv_cli.method.policies.streaming_llm import StreamingLLM
from purekv_cli.method.policies.tova import TOVA
from purekv_cli.method.policies.vl_cache import VLCache

__all__ = [
    "POLICIES",
    "Observation",
    "Policy",
    "drops_preamble",
    "layer_weights",
    "make",
    "observes",
    "shares_prefill",
]

POLICIES: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (
        PureKV,
        PureKVUniform,
        PureKVPaper,
        Dense,
        Random,
        StreamingLLM,
        H2O,
        SnapKV,
        PyramidKV,
        AdaKV,
        TOVA,
        KNorm,
        ExpectedAttention,
        CriticalKV,
        FastV,
        FastKV,
        InfiniPotV,
        MixKV,
        VLCache,
    )
}


def make(name: str, config: MethodConfig) -> Policy:
    """A fresh policy for one prefill."""
    if name not in POLICIES:
        raise unknown("policy", name, POLICIES)
    return POLICIES[name](config)


def layer_weights(config: MethodConfig, layers: int) -> tuple[float, ...]:
    """How the layers of a model share the budget; empty: equally, as all policies but `purekv` have it.

    Raises:
        UsageError: the weights are those of a model with another number of layers.
    """
    if not getattr(POLICIES.get(config.policy), "weighs_layers", False) or not config.layer_weights:
        return ()
    if len(config.layer_weights) != layers:
        raise UsageError(
            f"the budget is shared by {len(config.layer_weights)} layers, but the model has {layers}",
            "Choose the preset of this model, or --preset default; purekv calibrate makes one.",
        )
    return config.layer_weights


def drops_preamble(config: MethodConfig, layers: int, preamble: int, entries: int, prompt: int) -> list[bool]:
    """For every layer whether it drops the text before the video. Of all policies only `purekv` ever does.

    Args:
        preamble: tokens of that text. entries: of every layer, if they were equal. prompt: tokens of all of it.

    Raises:
        UsageError: the model lacks one of the layers that are named.
    """
    named = config.preamble_layers
    if not getattr(POLICIES.get(config.policy), "weighs_layers", False) or named is None:
        return [False] * layers
    if wrong := [layer for layer in named if not 0 <= layer < layers]:
        raise UsageError(
            f"layer {wrong[0]} is to keep the text before the video, but the model has layers 0 to {layers - 1}",
            "Choose the preset of this model, or --preset default; purekv calibrate makes one.",
        )
    crowded = entries < prompt and preamble > config.preamble_share * entries
    return [crowded and layer not in named for layer in range(layers)]


def observes(config: MethodConfig) -> Observe:
    """Whose rows a prefill hands over: those that the policy's formula names (its `observes`), else the dial's."""
    return getattr(POLICIES.get(config.policy), "observes", config.observe)


def shares_prefill(config: MethodConfig) -> bool:
    """Whether questions about a clip share one pruned cache: the policy does not look at them, or is not shown any.

    Raises:
        UsageError: no policy has this name.
    """
    return not make(config.policy, config).uses_question or config.observe == "template"
