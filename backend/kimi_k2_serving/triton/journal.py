"""The log of Triton's Python processes: lines in Triton's log, or JSON lines of their own (`logs`)."""

from __future__ import annotations

import logging

import triton_python_backend_utils as pb_utils

from kimi_k2_serving import logs

logger = logging.getLogger(__name__)
_json = logs.wants_json()


def begin(model: str) -> None:
    """Call it once, before anything is logged. `model` names this process."""
    logs.begin(model, logging.INFO)


def info(message: str) -> None:
    if _json:
        logger.info("%s", message)
    else:
        pb_utils.Logger.log_info(message)


def error(message: str, *, request: str = "") -> None:
    """Log an error. `request`: the uid of the run that it concerns."""
    if _json:
        logger.error("%s", message, extra={"request": request})
    else:
        pb_utils.Logger.log_error(message)
