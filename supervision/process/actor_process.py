"""What the Guardian and each supervised process do alike, as processes that Thespian has forked."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from typing import NoReturn

from repertory.supervision.process import lineage

#: Logging as it was configured before Thespian replaced it. Thespian's sends every line as an actor message.
_ROOT_LOGGER, _LOGGERS = logging.root, logging.Logger.manager


def take_over_process() -> None:
    """Undo Thespian's changes to the signal handlers and the logging of this process. Call it in the constructor."""
    lineage.ignore_relayed_signals()
    lineage.let_crashes_kill()
    logging.root = logging.Logger.root = _ROOT_LOGGER
    logging.Logger.manager = _LOGGERS


def exit_on_internal_error() -> NoReturn:
    """Print the current exception and end the process. Thespian would handle the same message again."""
    with contextlib.suppress(OSError, ValueError):
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(os.EX_SOFTWARE)
