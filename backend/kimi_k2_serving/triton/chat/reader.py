"""`python -m kimi_k2_serving.triton.chat.reader DESCRIPTION NICE`: reads the ensemble's large requests, one at a time.

It runs outside Triton, so nothing that it imports may import pb_utils.
"""

from __future__ import annotations

import sys

from kimi_k2_serving.reading import desk
from kimi_k2_serving.reading.desk import Served
from kimi_k2_serving.triton.chat.request import read_chat_inputs
from kimi_k2_serving.triton.inputs import Given


def answer(description: bytes) -> desk.Answer:
    """The function that reads one request; `description` is the result of `Served.encode`."""
    model = Served.decode(description).model()
    return lambda _, request: read_chat_inputs(Given.of(request), model).encode()


if __name__ == "__main__":
    desk.run(answer, sys.argv[1:])
