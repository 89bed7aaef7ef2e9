from .learning_rates import (
    Rate as Rate,
    own_rate as own_rate,
    rms_of as rms_of,
    shared_rate as shared_rate,
    tried_rates as tried_rates,
)
from .loader import (
    expand as expand,
    known_keys as known_keys,
    read_yaml as read_yaml,
    resolve as resolve,
    to_yaml as to_yaml,
    unknown_key as unknown_key,
    value_at as value_at,
)
from .resume_check import check_hashes as check_hashes, flat as flat
from .schema import (
    DECOMPOSED as DECOMPOSED,
    FREE_ON_RESUME as FREE_ON_RESUME,
    TRAINED as TRAINED,
    UNTRAINED as UNTRAINED,
    CheckpointConfig as CheckpointConfig,
    DataConfig as DataConfig,
    EvaluateConfig as EvaluateConfig,
    RunConfig as RunConfig,
)

__all__ = [
    "DECOMPOSED",
    "FREE_ON_RESUME",
    "TRAINED",
    "UNTRAINED",
    "CheckpointConfig",
    "DataConfig",
    "EvaluateConfig",
    "Rate",
    "RunConfig",
    "check_hashes",
    "expand",
    "flat",
    "known_keys",
    "own_rate",
    "read_yaml",
    "resolve",
    "rms_of",
    "shared_rate",
    "to_yaml",
    "tried_rates",
    "unknown_key",
    "value_at",
]
