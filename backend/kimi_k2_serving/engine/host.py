"""The engine's host process. It runs one SGLang `Engine` behind an inherited socket, or on a further node only its
schedulers.

`python -m kimi_k2_serving.engine.host SERVER FD PARENT`. It ends with its parent (PDEATHSIG, and the end of the
socket's stream) and with the process SERVER, which is the Triton that its parent belongs to (0 for none). SGLang's
processes share its process group and end with it. It knows nothing of K2, and its only state is in `generations`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import setproctitle

from kimi_k2_serving import logs
from kimi_k2_serving.engine import group, linux, shared_memory, wire
from kimi_k2_serving.engine.generations import Generations, TextSource, request_id
from kimi_k2_serving.engine.pace import Pace
from kimi_k2_serving.engine.stages import StartStage, enter
from kimi_k2_serving.engine.token_socket import TokenSocket
from kimi_k2_serving.engine.totals import FinishedRequest
from kimi_k2_serving.engine.warm_up import warm_up

TITLE = "sglang::host"
# After the server's end, the parent may take this long to stop this engine in an orderly way.
ORPHAN_SECONDS = 2.0
# This process ends after this many failures in a row to read the scheduler's state.
LOST_BEATS = 50
logger = logging.getLogger(TITLE)


def main(argv: list[str]) -> None:
    # The launcher sets this for all of Triton. A plain tritonserver does not, and SGLang creates files in /dev/shm.
    linux.keep_private()
    server, descriptor, parent = map(int, argv[1:])
    bind_to_parent(parent)
    setproctitle.setproctitle(TITLE)
    stream = socket.socket(fileno=descriptor)
    # Otherwise a forked process would keep the stream open after the end of this one.
    os.register_at_fork(after_in_child=stream.close)
    if server:
        threading.Thread(target=end_with_server, args=(server, parent), name="server-watch", daemon=True).start()
    logs.begin(TITLE, text="%(asctime)s %(name)s %(levelname)s %(message)s")
    # SGLang must be built on the main thread (its signal handlers) and before any loop runs (it sets the loop policy).
    start = receive_start(stream)
    try:
        if start.server_args.get("node_rank", 0):
            follow(start.server_args, stream)
        else:
            engine, texts = build_engine(start.server_args)
            engine.loop.run_until_complete(serve(engine, texts, start, stream))
    finally:
        end_group()


def bind_to_parent(parent: int) -> None:
    """Die when the parent dies, even if it died before this call."""
    linux.die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def end_with_server(server: int, parent: int) -> None:
    """Wait for the end of `server`. Then end this process and the parent, and remove the parent's files in /dev/shm,
    which nothing else would remove. The parent may not end by itself: Triton 24.10's stub may hang for ever, holding
    the GIL, in a call to the Triton that is gone (seen once in some twenty kills).
    """
    linux.wait_for_end(server)
    time.sleep(ORPHAN_SECONDS)
    shared_memory.unlink(shared_memory.mapped_entries(parent))
    group.kill_workers(os.getpgrp(), spared=os.getpid())
    # The kernel then kills this process (PDEATHSIG).
    os.kill(parent, signal.SIGKILL)


def end_group() -> None:
    """Kill this process and all of SGLang's, which are in its process group. Python's resource tracker survives for a
    moment, removes their files in /dev/shm, and ends by itself.
    """
    group.kill_workers(os.getpgrp(), spared=os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


def receive_start(stream: socket.socket) -> wire.Start:
    reader = wire.FrameReader(wire.Start)
    while data := stream.recv(1 << 16):
        for message in reader.feed(data):
            assert isinstance(message, wire.Start)
            return message
    sys.exit(1)


def build_engine(server_args: dict[str, Any]) -> tuple[Any, TextSource]:
    enter(StartStage.IMPORTING)
    from kimi_k2_serving.engine.direct_engine import DirectEngine, text_decoder

    enter(StartStage.WEIGHTS)
    engine = DirectEngine(**server_args)
    return engine, text_decoder(engine.tokenizer_manager)


def follow(server_args: dict[str, Any], stream: socket.socket) -> None:
    """Run the schedulers of a further node until the worker closes the stream. Requests come from rank 0's node."""
    from sglang.srt.entrypoints.engine import Engine
    from sglang.version import __version__

    # The constructor returns when the schedulers are ready: `nodes.worker` has set SGLANG_BLOCK_NONZERO_RANK_CHILDREN.
    Engine(**server_args)
    stream.sendall(wire.frame(wire.Started(f"SGLang {__version__}", 0, 0, 0, 0)))
    while stream.recv(1 << 16):
        pass


async def serve(engine: Any, texts: TextSource, start: wire.Start, stream: socket.socket) -> None:
    """Serve until the stub closes its side of the stream."""
    incoming, writer = await asyncio.open_unix_connection(sock=stream)
    enter(StartStage.WARM_UP)
    await try_out(engine)
    if start.warm_up:
        await warm_up(engine, request_id("warm-up"))
    leave_nothing(engine.tokenizer_manager.load_snapshot_reader)
    readers = TokenSocket(
        patience=start.reader_seconds,
        aborted=lambda reader, uid: generations.abort_read(reader, uid),
        asked=lambda reader, uid: generations.relay(reader, uid),
        lost=lambda reader: generations.lose(reader),
        clock=time.monotonic,
    )
    generations = Generations(engine, texts, readers, writer.write)
    generations.attach()
    if start.token_socket:
        await readers.open(Path(start.token_socket))
    wire.write_frames(writer, [started(engine)])
    pace = Pace(lambda: generations.running)
    beating = asyncio.create_task(beat(engine, generations, readers, writer, pace))
    with contextlib.suppress(ConnectionError):
        async for message in wire.messages(incoming, wire.ToHost):
            match message:
                case wire.Submit():
                    generations.submit(message)
                    pace.wake()
                case wire.Abort(uid=uid):
                    generations.abort(uid)
                case wire.Unreadable(uid=uid, problem=problem):
                    logger.error("a request could not be read: %s", problem)
                    generations.refuse(uid, 400, "unreadable")
                case _:
                    pass
    beating.cancel()
    readers.close()
    writer.close()


def leave_nothing(reader: Any) -> None:
    """Register the file in which the schedulers publish their state with Python's resource tracker, which SGLang does
    not do. The stub normally removes the file; the tracker removes it when the stub and this group were both killed.
    """
    # With several nodes, SGLang wraps the reader of the file in a receiver.
    path = getattr(reader, "_shm_reader", reader).path
    resource_tracker.register(f"/{Path(path).name}", "shared_memory")


async def beat(
    engine: Any, generations: Generations, readers: TokenSocket, writer: asyncio.StreamWriter, pace: Pace
) -> None:
    """Forward the state that the schedulers publish, at the given pace, and disconnect readers that do not read. After
    LOST_BEATS failures in a row, close the stream, which ends this process. Without the state the stub can't see
    whether the engine makes progress.
    """
    reader = engine.tokenizer_manager.load_snapshot_reader
    lost = 0
    while lost < LOST_BEATS:
        try:
            readers.drop_stalled()
            state = beat_of(reader.read_all(), generations.read(), *generations.spent())
            wire.write_frames(writer, [state])
            lost = 0
        except Exception:
            if lost == 0:
                logger.exception("the scheduler's state could not be read or sent")
            lost += 1
        if lost or state.busy:
            pace.wake()
        await asyncio.sleep(wire.BEAT_SECONDS)
        await pace.rest()
    writer.close()


def beat_of(
    published: list[Any], read: list[str], generated: int = 0, finished: Sequence[FinishedRequest] = ()
) -> wire.Beat:
    """One Beat for all data-parallel ranks."""
    ranks = [load for load in published if load is not None]
    return wire.Beat(
        published=max((load.timestamp for load in ranks), default=0.0),
        busy=any(load.num_running_reqs + load.num_waiting_reqs + load.num_used_tokens for load in ranks),
        running=sum(load.num_running_reqs for load in ranks),
        queued=sum(load.num_waiting_reqs for load in ranks),
        kv_usage=max((load.token_usage for load in ranks), default=0.0),
        read=read,
        generated=generated,
        finished=list(finished),
        used=sum(load.num_used_tokens for load in ranks),
        capacity=sum(load.max_total_num_tokens for load in ranks),
    )


async def try_out(engine: Any) -> None:
    """Generate one token before the engine is reported as started. An engine that dies on any request dies here, before
    a client's request could be blamed for it.
    """
    await engine.async_generate(input_ids=[0], sampling_params={"max_new_tokens": 1}, rid=request_id("start"))


def started(engine: Any) -> wire.Started:
    from sglang.version import __version__

    manager = engine.tokenizer_manager
    scheduler = engine._scheduler_init_result.scheduler_infos[0]
    context_length = int(manager.context_len) - int(manager.num_reserved_tokens)
    return wire.Started(
        engine=f"SGLang {__version__}",
        context_length=context_length,
        # SGLang refuses a prompt that is as long as either bound.
        prompt_tokens=min(int(scheduler["max_req_input_len"]), context_length) - 1,
        kv_capacity=int(scheduler["max_total_num_tokens"]),
        vocab_size=int(manager.model_config.vocab_size),
        min_p=not manager.server_args.enable_deterministic_inference,
    )


if __name__ == "__main__":
    main(sys.argv)
