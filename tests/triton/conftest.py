"""Puts the fake `triton_python_backend_utils` where the modules under test look for it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import fake_pb_utils

sys.modules.setdefault("triton_python_backend_utils", fake_pb_utils)
