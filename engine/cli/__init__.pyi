from .exit_codes import EXIT_CODES as EXIT_CODES
from .main import (
    MODES as MODES,
    read_command as read_command,
    run_mode as run_mode,
    without_launcher_flag as without_launcher_flag,
)

__all__ = [
    "EXIT_CODES",
    "MODES",
    "read_command",
    "run_mode",
    "without_launcher_flag",
]
