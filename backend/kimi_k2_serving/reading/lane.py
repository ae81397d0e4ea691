"""The server's side of the processes that read large requests: two lanes, by the size of the request.

Reading a request of megabytes takes seconds, during which a thread would hold the GIL. So another process reads it
(`desk`), first come, first served; a request of usual size never waits for one that is close to the limit.
A reader that dies or takes too long fails the request that it was reading, and is started again for the next one.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass

from kimi_k2_serving.core.errors import DeadlineExceeded, Internal, Overloaded, ServingError, ShuttingDown
from kimi_k2_serving.core.limits import READ_SECONDS, READING_BYTES
from kimi_k2_serving.reading.crossing import READ, decode_error

logger = logging.getLogger(__name__)

# A smaller request takes less time to read in this process than to send to another one.
SMALL_BYTES = 16 * 2**10
# The first lane takes requests up to this size, the second larger ones.
USUAL_BYTES = 2**20
# Added to the limit of a reader's first request: time to load a vocabulary of 163,840 tokens on a busy machine.
START_SECONDS = 60.0
PAUSE_SECONDS = 1.0
NICE = 10
_SLICE = 2**18
STOPPING = "the server is stopping; send the request again"


@dataclass(frozen=True, slots=True)
class _Job:
    name: bytes
    pieces: Sequence[bytes]
    future: asyncio.Future[memoryview]

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))


class Lane:
    """One process, started for its first request, and the requests that wait for it. Used on one event loop alone.
    `field` is the field of an error that concerns the whole request.
    """

    def __init__(self, command: Sequence[str], *, field: str) -> None:
        self._command = command
        self._field = field
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._waiting = 0
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._fresh = True

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def ask(self, name: str, pieces: Sequence[bytes]) -> memoryview:
        job = _Job(name.encode(), pieces, asyncio.get_running_loop().create_future())
        if self._waiting and self._waiting + job.size > READING_BYTES.value:
            raise Overloaded("too many large requests at once; retry in 1 s")
        self._waiting += job.size
        try:
            self._jobs.put_nowait(job)
            return await job.future
        finally:
            self._waiting -= job.size

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while not self._jobs.empty():
            _fail(self._jobs.get_nowait(), ShuttingDown(STOPPING))
        await self._end()

    async def _run(self) -> None:
        while True:
            job = await self._jobs.get()
            if job.future.done():
                continue
            try:
                answer = await self._answer(job)
                if not job.future.done():
                    job.future.set_result(answer)
            except asyncio.CancelledError:
                _fail(job, ShuttingDown(STOPPING))
                raise
            except ServingError as error:
                _fail(job, error)
            except Exception:
                logger.exception("sending a request to its reader failed")
                _fail(job, Internal("an internal error; see the server's log"))
                await self._end()

    async def _answer(self, job: _Job) -> memoryview:
        process = await self._started()
        if process is None:
            raise Overloaded("the process that reads large requests did not start; retry in 1 s")
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(READ_SECONDS.value + (START_SECONDS if self._fresh else 0)):
                process.stdin.write(struct.pack("<II", len(job.name), job.size) + job.name)
                for piece in job.pieces:
                    for start in range(0, len(piece), _SLICE):
                        process.stdin.write(piece[start : start + _SLICE])
                        await process.stdin.drain()
                (size,) = struct.unpack("<I", await process.stdout.readexactly(4))
                answer = await _slices(process.stdout, size)
        except TimeoutError:
            await self._end()
            detail = f"reading the request took more than {READ_SECONDS.value} s; send a smaller one"
            raise DeadlineExceeded(detail, field=self._field) from None
        except (asyncio.IncompleteReadError, OSError):
            await self._end()
            logger.error("the process that reads large requests has died; the next request starts it again")
            raise Internal("the process that read this request has died") from None
        self._fresh = False
        return answer

    async def _started(self) -> Process | None:
        """The process, started if it does not run; None, after PAUSE_SECONDS, if it could not be started."""
        if self._process is not None and self._process.returncode is None:
            return self._process
        try:
            self._process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE)
        except OSError as error:
            logger.error("the process that reads large requests did not start: %s", type(error).__name__)
            await asyncio.sleep(PAUSE_SECONDS)
            return None
        self._fresh = True
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


class ReaderLanes:
    """`module` is the module of the readers, `description` their argument; the one for large requests has a low
    priority. `open` has to be awaited first, on the event loop that will use the lanes.
    """

    def __init__(self, module: str, description: bytes, *, field: str = "", python: str = sys.executable) -> None:
        command = (python, "-m", module, description.decode())
        self._usual = Lane((*command, "0"), field=field)
        self._large = Lane((*command, str(NICE)), field=field)

    async def open(self) -> None:
        self._usual.start()
        self._large.start()

    async def close(self) -> None:
        await self._usual.close()
        await self._large.close()

    async def ask(self, name: str, pieces: Sequence[bytes]) -> memoryview:
        """The data that the reading `name` of the request gave. Raises the error of the reading, or DeadlineExceeded,
        Overloaded, ShuttingDown or Internal.
        """
        lane = self._usual if sum(map(len, pieces)) <= USUAL_BYTES else self._large
        answer = await lane.ask(name, pieces)
        if answer[:1] != READ:
            raise decode_error(answer[1:])
        return answer[1:]


async def _slices(source: asyncio.StreamReader, size: int) -> memoryview:
    """Reads `size` bytes in slices, so each is copied once and no slice blocks the event loop for long."""
    found = memoryview(bytearray(size))
    place = 0
    while place < size:
        piece = await source.read(min(_SLICE, size - place))
        if not piece:
            raise asyncio.IncompleteReadError(b"", size)
        found[place : place + len(piece)] = piece
        place += len(piece)
    return found.toreadonly()


def _fail(job: _Job, error: ServingError) -> None:
    if not job.future.done():
        job.future.set_exception(error)
