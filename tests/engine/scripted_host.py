"""A host process without SGLang: counts up from the last prompt id, one id every `step` seconds. For faults and speed.

It obeys `server_args`: start_delay, step, die_after (tokens, of all requests together), refuse_start,
shared_memory (an entry of /dev/shm to leave behind), worker (start a second process, as SGLang's scheduler is one),
note (a file to write the arguments to),
kill_after (seconds that it lives under a prompt that starts with KILLER). Other first ids are of their own effect, too.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from kimi_k2_serving.engine import wire
from kimi_k2_serving.engine.host import bind_to_parent, receive_start

# First ids of a prompt: the host dies; nothing comes of it; a frame that names it, or names nothing, is no message.
KILLER, SILENT, UNREADABLE, NAMELESS = 4001, 4002, 4003, 4004


async def serve(stream: socket.socket, args: dict[str, Any]) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=stream)
    wire.write_frames(
        writer, [wire.Started("scripted", 1000, 993, 2000, 5000), wire.Beat(1.0, True, 3, args.get("queued", 2), 0.5)]
    )
    aborted: set[str] = set()
    tasks = set()
    sent = 0

    async def run(submit: wire.Submit) -> None:
        nonlocal sent
        length = submit.sampling["max_new_tokens"]
        first = submit.input_ids[0]
        if first == KILLER:
            asyncio.get_running_loop().call_later(args.get("kill_after", 0), os.kill, os.getpid(), signal.SIGKILL)
        elif first == SILENT:
            return
        elif first in (UNREADABLE, NAMELESS):
            body = msgspec.msgpack.encode(["Output", submit.uid] if first == UNREADABLE else ["Output"])
            writer.write(wire.HEADER.pack(len(body)) + body)
        if length == 13:
            wire.write_frames(writer, [wire.Failed(submit.uid, 400, "unlucky")])
            return
        for number in range(1, length + 1):
            await asyncio.sleep(args.get("step", 0))
            gone = submit.uid in aborted
            end = "abort" if gone else "length" if number == length else ""
            token = submit.input_ids[-1] + number
            wire.write_frames(writer, [wire.Output(submit.uid, [token], number, text=f" {token}", end=end)])
            sent += 1
            if sent == args.get("die_after"):
                os.kill(os.getpid(), signal.SIGKILL)
            if gone:
                return

    async for message in wire.messages(reader, wire.ToHost):
        if isinstance(message, wire.Submit):
            tasks.add(asyncio.create_task(run(message)))
        elif isinstance(message, wire.Abort):
            aborted.add(message.uid)


def shared_file(name: str) -> int:
    file = os.open(f"/dev/shm/{name}", os.O_CREAT | os.O_RDWR)
    os.truncate(file, 4096)
    return file


def main() -> None:
    bind_to_parent(int(sys.argv[2]))
    stream = socket.socket(fileno=int(sys.argv[1]))
    args = receive_start(stream).server_args
    if note := args.get("note"):
        Path(note).write_text(json.dumps(args))
    kept: list[mmap.mmap] = []
    if name := args.get("shared_memory"):
        kept.append(mmap.mmap(shared_file(name), 4096, flags=mmap.MAP_SHARED))
    if args.get("worker"):
        worker = subprocess.Popen(["sglang::scheduler", "600"], executable="/bin/sleep")
        # Popen returns a moment before the new command line shows.
        while not Path(f"/proc/{worker.pid}/cmdline").read_bytes():
            time.sleep(0.001)
    if args.get("refuse_start"):
        sys.exit(3)
    asyncio.run(asyncio.sleep(args.get("start_delay", 0)))
    asyncio.run(serve(stream, args))


if __name__ == "__main__":
    main()
