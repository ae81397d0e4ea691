"""`python -m kimi_k2_serving.triton.chat.reader DESCRIPTION NICE`: reads the ensemble's large requests, one by one.

It runs outside Triton, so nothing that it imports may import Triton.
"""

from __future__ import annotations

import sys

from kimi_k2_serving.reading import desk
from kimi_k2_serving.reading.desk import Served
from kimi_k2_serving.triton.chat.request import read_chat_inputs
from kimi_k2_serving.triton.inputs import Given


def answer(description: bytes) -> desk.Answer:
    """There is one reading; `description` is what `Served.encode` gives."""
    model = Served.decode(description).model()
    return lambda _, request: read_chat_inputs(Given.of(request), model).encode()


if __name__ == "__main__":
    desk.run(answer, sys.argv[1:])
