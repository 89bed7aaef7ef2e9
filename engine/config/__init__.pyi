from .key_lines import at_line as at_line, key_lines as key_lines
from .keys import READERS as READERS
from .learning_rates import (
    Rate as Rate,
    own_rate as own_rate,
    rms_of as rms_of,
    shared_rate as shared_rate,
    tried_rates as tried_rates,
)
from .loader import (
    expand as expand,
    read_config as read_config,
    read_switch as read_switch,
    read_yaml as read_yaml,
    resolve as resolve,
    to_yaml as to_yaml,
    unknown_key as unknown_key,
)
from .methods import (
    DECOMPOSED as DECOMPOSED,
    METHODS as METHODS,
    SOURCES as SOURCES,
    TRAINED as TRAINED,
    UNTRAINED as UNTRAINED,
)
from .renamed import new_key as new_key, new_value as new_value
from .resume_check import check_hashes as check_hashes, compared as compared, flat as flat
from .schema import (
    FREE_IN_EVALUATION as FREE_IN_EVALUATION,
    FREE_ON_RESUME as FREE_ON_RESUME,
    JOINED_BY_MERGE as JOINED_BY_MERGE,
    NOT_IN_STEP as NOT_IN_STEP,
    CheckpointConfig as CheckpointConfig,
    DataConfig as DataConfig,
    EvaluateConfig as EvaluateConfig,
    RunConfig as RunConfig,
    known_keys as known_keys,
    schema_keys as schema_keys,
    value_at as value_at,
)

__all__ = [
    "DECOMPOSED",
    "FREE_IN_EVALUATION",
    "FREE_ON_RESUME",
    "JOINED_BY_MERGE",
    "METHODS",
    "NOT_IN_STEP",
    "READERS",
    "SOURCES",
    "TRAINED",
    "UNTRAINED",
    "CheckpointConfig",
    "DataConfig",
    "EvaluateConfig",
    "Rate",
    "RunConfig",
    "at_line",
    "check_hashes",
    "compared",
    "expand",
    "flat",
    "key_lines",
    "known_keys",
    "new_key",
    "new_value",
    "own_rate",
    "read_config",
    "read_switch",
    "read_yaml",
    "resolve",
    "rms_of",
    "schema_keys",
    "shared_rate",
    "to_yaml",
    "tried_rates",
    "unknown_key",
    "value_at",
]
