"""This project's own client: a streamed chat over Triton's gRPC or HTTP. docs/client.md has the rest.

python examples/kimi_client.py [URL]
"""

import sys

from kimi_k2_client import Client, ContentDelta, Finished

with (
    Client(sys.argv[1] if len(sys.argv) > 1 else "grpc://127.0.0.1:8001") as client,
    client.chat_stream("What can you do?", max_tokens=48) as events,
):
    for event in events:
        match event:
            case ContentDelta(text):
                print(text, end="", flush=True)
            case Finished(usage=usage):
                print(f"\n[{usage.completion_tokens} tokens]")
