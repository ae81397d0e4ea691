"""The engine model `kimi_k2_engine` with tritonclient: token ids in, token ids out, over gRPC.

This model knows nothing of chats. `input_ids` has one dimension of any length; `text_input` would take text instead.

python examples/triton_engine.py [HOST:PORT]
"""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as grpc


def tensor(name: str, values: list, kind: str, dtype: object) -> grpc.InferInput:
    made = grpc.InferInput(name, [len(values)], kind)
    made.set_data_from_numpy(np.array(values, dtype=dtype))
    return made


inputs = [
    tensor("input_ids", [100, 101, 102, 103], "INT32", np.int32),
    tensor("sampling_parameters", [json.dumps({"max_new_tokens": 16, "top_k": 20}).encode()], "BYTES", np.object_),
    tensor("stream", [True], "BOOL", np.bool_),
]
responses: queue.Queue = queue.Queue()
with grpc.InferenceServerClient(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001") as client:
    client.start_stream(lambda result, error: responses.put((result, error)))
    client.async_stream_infer("kimi_k2_engine", inputs, enable_empty_final_response=True)
    ids: list[int] = []
    final = False
    while not final:
        result, error = responses.get(timeout=120)
        if error is not None:
            raise error
        final = result.get_response().parameters["triton_final_response"].bool_param
        if (new := result.as_numpy("output_ids")) is not None:
            ids += new.tolist()
        if (reason := result.as_numpy("finish_reason")) is not None:
            print(f"{len(ids)} ids, finish_reason {reason[0].decode()}: {ids}")
