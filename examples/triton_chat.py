"""The ensemble `kimi_k2` with tritonclient: a streamed chat over gRPC.

All four models are decoupled: a request has any number of responses. So `infer` refuses them, and a stream is the way.
A response holds only the outputs that have a value, and the last one has the final flag.

python examples/triton_chat.py [HOST:PORT]
"""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as grpc


def tensor(name: str, value: object, kind: str, dtype: object) -> grpc.InferInput:
    made = grpc.InferInput(name, [1], kind)
    made.set_data_from_numpy(np.array([value], dtype=dtype))
    return made


messages = [{"role": "user", "content": "What can you do?"}]
inputs = [
    tensor("messages", json.dumps(messages).encode(), "BYTES", np.object_),  # JSON is text in a BYTES tensor
    tensor("max_tokens", 48, "INT32", np.int32),
    tensor("stream", True, "BOOL", np.bool_),
]
responses: queue.Queue = queue.Queue()
with grpc.InferenceServerClient(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001") as client:
    client.start_stream(lambda result, error: responses.put((result, error)))
    client.async_stream_infer("kimi_k2", inputs, enable_empty_final_response=True)
    final = False
    while not final:
        result, error = responses.get(timeout=120)
        if error is not None:
            raise error  # its text begins with a stable code, see docs/tensors.md
        final = result.get_response().parameters["triton_final_response"].bool_param
        for name in ("text_output", "tool_calls", "finish_reason", "usage"):
            for value in [] if result.as_numpy(name) is None else result.as_numpy(name):
                print(value.decode(), end="" if name == "text_output" else "\n", flush=True)
