"""The first step `kimi_k2_preprocess` with tritonclient: the ids of a chat's prompt. Nothing is generated.

The second step, `kimi_k2_postprocess`, has no example: it accepts only what the server's own first step has made.

python examples/triton_prompt.py [HOST:PORT]
"""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as grpc

text = grpc.InferInput("messages", [1], "BYTES")
text.set_data_from_numpy(np.array([json.dumps([{"role": "user", "content": "Hello"}]).encode()], dtype=np.object_))
responses: queue.Queue = queue.Queue()
with grpc.InferenceServerClient(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001") as client:
    client.start_stream(lambda result, error: responses.put((result, error)))
    client.async_stream_infer("kimi_k2_preprocess", [text])
    result, error = responses.get(timeout=120)
    if error is not None:
        raise error
    ids = result.as_numpy("input_ids").tolist()
    print(f"{len(ids)} ids: {ids}")
