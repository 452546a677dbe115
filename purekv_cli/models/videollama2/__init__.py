"""VideoLLaMA2 (DAMO-NLP-SG) on parts of transformers: its own connectors, everything else stock.

Importing this imports no torch: planning needs only `geometry` and `tower`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from purekv_cli.models.videollama2.golden import Golden


def golden_adapter(config: Mapping[str, Any], state_dict: Mapping[str, "Tensor"], **parts: Any) -> "Golden":
    """A model for comparing tensor by tensor with numbers of the reference implementation; see `golden.Golden`.

    Args:
        config: a golden case ("config", "vision_config", "preprocessor_config"), or a released config.json, whose
            missing parts are given as keywords or looked up by the name of its vision tower.
        state_dict: float32 weights under the released key names.
        parts: vision_config, preprocessor_config.
    """
    from purekv_cli.models.videollama2.golden import Golden

    return Golden.of({**config, **parts}, state_dict)
