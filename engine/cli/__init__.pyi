from .exit_codes import EXIT_CODES as EXIT_CODES
from .main import (
    MODES as MODES,
    check_raw as check_raw,
    run_mode as run_mode,
    without_launcher_flag as without_launcher_flag,
)

__all__ = [
    "EXIT_CODES",
    "MODES",
    "check_raw",
    "run_mode",
    "without_launcher_flag",
]
