"""Manages the generations in the host: submits them to SGLang, and turns each batch of its output into messages.

One batch is one step of the scheduler for all of its requests. All of its messages to the stub go out in one write, and
so do those to each reader of `token_socket`. A row that can't be passed on ends that generation alone. All methods run
on one event loop. The engine is a `direct_engine.DirectEngine`; nothing here imports SGLang.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kimi_k2_serving.core.sampling import GRAMMARS
from kimi_k2_serving.engine import wire
from kimi_k2_serving.engine.token_socket import ReaderConnection, TokenSocket
from kimi_k2_serving.engine.totals import FinishedRequest

logger = logging.getLogger("sglang::host")

# The start of SGLang 0.5.23's error for a grammar that allows no next token.
NO_TEXT = "Grammar accept_token failed"


class TextSource(Protocol):
    def decode(self, batch: Any, rows: list[int]) -> list[str]: ...

    def forget(self, rid: str) -> None: ...


@dataclass(slots=True)
class Running:
    submit: wire.Submit
    reader: ReaderConnection | None
    begun: bool = False
    # Whether the generation was submitted to SGLang.
    submitted: bool = False
    # Times by the clock of Generations. `first`: the time of the first token.
    arrived: float = 0.0
    first: float = 0.0


def request_id(uid: str, number: int = 0) -> str:
    """SGLang's id for the generation with this uid and number. The number is needed because SGLang knows an aborted
    generation for a while, and its client may use the uid again at once. The prefix is needed because SGLang treats
    some ids specially: it drops the outputs of `HEALTH_CHECK...`, and clients choose uids. The line break is needed
    because SGLang's scheduler aborts every request whose id starts with the given one; no uid contains a line break.
    """
    return f"kimi-k2:{number}:{uid}\n"


class Generations:
    """`write` sends bytes to the stub."""

    def __init__(
        self,
        engine: Any,
        texts: TextSource,
        readers: TokenSocket,
        write: Callable[[bytes], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._texts = texts
        self._readers = readers
        self._write = write
        self._clock = clock
        self._generated = 0
        self._finished: list[FinishedRequest] = []
        self._running: dict[str, Running] = {}
        # SGLang's id of the last generation with each uid, as long as it runs.
        self._rids: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._starting: set[asyncio.Task[None]] = set()
        # The uids whose ids went to a reader since the last `read`.
        self._read: set[str] = set()

    @property
    def running(self) -> bool:
        return bool(self._running)

    def attach(self) -> None:
        """Make the engine deliver its output to this object from now on."""
        self._engine.tokenizer_manager.deliver = self.deliver
        self._engine.tokenizer_manager.ended = self.end

    def submit(self, message: wire.Submit) -> None:
        if message.uid in self._rids:
            # It was aborted, and its caller has left.
            self._drop(self._rids[message.uid])
        reader = self._readers.reader(message.reader) if message.reader else None
        rid = self._rids[message.uid] = request_id(message.uid, next(self._numbers))
        running = self._running[rid] = Running(message, reader, arrived=self._clock())
        task = asyncio.create_task(self._start(rid, running))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    def abort(self, uid: str) -> None:
        """Abort the generation with this uid. An unknown uid is ignored."""
        rid = self._rids.get(uid)
        if rid is None:
            return
        if self._running[rid].submitted:
            self._engine.tokenizer_manager.abort_request(rid=rid)
        else:
            self.end(rid, {"type": "abort"})

    def abort_read(self, reader: ReaderConnection, uid: str) -> None:
        """Abort for a reader. It can abort only generations whose ids it reads."""
        rid = self._rids.get(uid)
        if rid is not None and self._running[rid].reader is reader:
            self.abort(uid)

    def relay(self, reader: ReaderConnection, uid: str) -> None:
        """Send the further ids of this generation to a reader that asks for them, if its Submit allows that."""
        running = self._running.get(self._rids.get(uid, ""))
        if running is not None and running.reader is None and running.submit.relayed:
            running.reader = reader
            self._write(wire.frame(wire.Relayed(uid)))

    def refuse(self, uid: str, status: int, log: str) -> None:
        self._write(wire.frame(wire.Failed(uid, status, log)))

    def read(self) -> list[str]:
        """The uids whose ids went to a reader since the last call."""
        found, self._read = list(self._read), set()
        return found

    def spent(self) -> tuple[int, list[FinishedRequest]]:
        """The tokens that were generated and the requests that ended since the last call."""
        found = self._generated, self._finished
        self._generated, self._finished = 0, []
        return found

    def lose(self, reader: ReaderConnection) -> None:
        """End the generations of a reader that is gone."""
        for rid, running in list(self._running.items()):
            if running.reader is reader:
                self._fail(rid, running, wire.READER_GONE, "its reader is gone")

    async def _start(self, rid: str, running: Running) -> None:
        import fastapi

        if rid not in self._running:
            # The generation ended before it was submitted.
            return
        running.submitted, submit = True, running.submit
        try:
            waiting = await self._engine.async_generate(
                input_ids=submit.input_ids,
                sampling_params=submit.sampling,
                stream=True,
                rid=rid,
                return_logprob=submit.top_logprobs is not None,
                top_logprobs_num=submit.top_logprobs or 0,
                logprob_start_len=0 if submit.prompt_logprobs else -1,
                priority=submit.priority,
                cache_salt=submit.cache_salt,
                # SGLang expects the name under which it has loaded the adapter here.
                lora_path=submit.adapter or None,
                external_trace_header={"traceparent": submit.trace} if submit.trace else None,
            )
            # The iterator ends as soon as the scheduler has the request.
            async for _ in waiting:
                pass
        except fastapi.HTTPException as error:
            self._refuse(rid, error.status_code, str(error.detail))
        except ValueError as error:
            self._refuse(rid, 400, str(error))
        except Exception as error:
            logger.exception("generation %s failed", submit.uid, extra={"request": submit.uid})
            self._refuse(rid, 500, type(error).__name__)

    def _refuse(self, rid: str, status: int, log: str) -> None:
        running = self._running.get(rid)
        if running is not None:
            self._fail(rid, running, status, log)

    def _fail(self, rid: str, running: Running, status: int, log: str) -> None:
        """End a generation here, in the engine and for the stub."""
        self._engine.tokenizer_manager.abort_request(rid=rid)
        self._drop(rid)
        self.refuse(running.submit.uid, status, log)

    def _drop(self, rid: str) -> None:
        running = self._running.pop(rid, None)
        if running is not None and self._rids.get(running.submit.uid) == rid:
            del self._rids[running.submit.uid]
        self._texts.forget(rid)

    def deliver(self, batch: Any) -> None:
        """Pass on one batch. Never raises."""
        to_stub: list[bytes] = []
        to_readers: dict[ReaderConnection, list[bytes]] = defaultdict(list)
        texts = self._decode(batch)
        now = self._clock()
        for row, rid in enumerate(batch.rids):
            running = self._running.get(rid)
            if running is None:
                continue
            try:
                made = blamed(running.submit, output(running, batch, row, texts.get(row, "")))
                self._account(running, made, now)
                message: wire.Output | wire.Failed | None = made
                if running.reader is not None and isinstance(made, wire.Output):
                    to_readers[running.reader].append(wire.frame(made))
                    self._read.add(made.uid)
                    message = ending(made)
                if message is not None:
                    to_stub.append(wire.frame(message))
            except Exception as error:
                name = running.submit.uid
                why = f"{type(error).__name__}: {error}"
                logger.error("an output of generation %s could not be sent: %s", name, why, extra={"request": name})
                self._fail(rid, running, 500, "unsendable")
                continue
            running.begun = True
            if isinstance(message, wire.Failed) or (message is not None and message.end):
                self._drop(rid)
        for reader, frames in to_readers.items():
            reader.write(b"".join(frames))
        if to_stub:
            self._write(b"".join(to_stub))

    def _account(self, running: Running, made: wire.Output | wire.Failed, now: float) -> None:
        if isinstance(made, wire.Failed):
            return
        self._generated += len(made.ids)
        if not running.begun:
            running.first = now
        if made.end:
            prompt, times = len(running.submit.input_ids), (running.first - running.arrived, now - running.arrived)
            self._finished.append(FinishedRequest(prompt, made.cached_tokens, made.completion_tokens, *times))

    def end(self, rid: str, finish: Mapping[str, Any]) -> None:
        """Handle a request that has ended before it ran. Never raises."""
        running = self._running.get(rid)
        if running is not None:
            self._drop(rid)
            end = failure(running.submit.uid, finish) or wire.Output(running.submit.uid, [], 0, end="abort")
            self._write(wire.frame(end))

    def _decode(self, batch: Any) -> dict[int, str]:
        """The text of each row whose client reads text. If it can't be decoded, those generations end."""
        rows = [
            row
            for row, rid in enumerate(batch.rids)
            if (running := self._running.get(rid)) is not None and running.submit.text
        ]
        if not rows:
            return {}
        try:
            return dict(zip(rows, self._texts.decode(batch, rows), strict=True))
        except Exception:
            logger.exception("the text of %d outputs could not be decoded", len(rows))
            for row in rows:
                self._refuse(batch.rids[row], 500, "undecodable")
            return {}


def output(running: Running, batch: Any, row: int, text: str) -> wire.Output | wire.Failed:
    """The message for one row of a batch from SGLang."""
    submit, finish = running.submit, batch.finished_reasons[row]
    if finish is not None and (failed := failure(submit.uid, finish)) is not None:
        return failed
    end = "" if finish is None else str(finish["type"])
    return wire.Output(
        uid=submit.uid,
        ids=list(batch.output_ids[row]),
        completion_tokens=batch.completion_tokens[row],
        # The number never changes after the first message, so sending it again would only cost bytes.
        cached_tokens=0 if running.begun and not end else batch.cached_tokens[row],
        text="" if end == "abort" else text,
        end=end,
        matched=matched(finish.get("matched")) if finish else None,
        logprobs=[] if submit.top_logprobs is None else logprobs(batch, row, submit.top_logprobs),
        prompt_logprobs=prompt_logprobs(batch, row, submit) if submit.prompt_logprobs else [],
    )


def ending(message: wire.Output) -> wire.Output | None:
    """The part of an output that the stub gets when the ids went to a reader: its ending, or None."""
    if not message.end:
        return None
    return wire.Output(
        message.uid,
        [],
        message.completion_tokens,
        message.cached_tokens,
        end=message.end,
        matched=message.matched,
    )


def failure(uid: str, finish: Mapping[str, Any]) -> wire.Failed | None:
    """The Failed that an abort by SGLang itself stands for; None for any other end."""
    status = finish.get("status_code") or 0
    if finish["type"] != "abort" or status < 400:
        return None
    return wire.Failed(uid, int(status), str(finish.get("message")))


def blamed(submit: wire.Submit, message: wire.Output | wire.Failed) -> wire.Output | wire.Failed:
    """Turn SGLang's internal error for a grammar that no text satisfies into a client error. Only a client of the
    engine model can send such a grammar: for chats, unsatisfiable schemas are refused before the engine.
    """
    if isinstance(message, wire.Failed) and message.log.startswith(NO_TEXT) and submit.sampling.keys() & set(GRAMMARS):
        return wire.Failed(message.uid, 400, message.log)
    return message


def matched(found: Any) -> str | int | list[int] | None:
    """The stop string, token id or ids that ended the run; None for a type that SGLang does not document."""
    if isinstance(found, list):
        return found if all(type(each) is int for each in found) else None
    return found if type(found) in (int, str) else None


def logprobs(batch: Any, row: int, top: int) -> list[wire.Logprobs]:
    values, ids = batch.output_token_logprobs_val[row] or (), batch.output_token_logprobs_idx[row] or ()
    none: list[Any] = [()] * len(values)
    others = batch.output_top_logprobs_val[row] if top else none
    other_ids = batch.output_top_logprobs_idx[row] if top else none
    return described(values, ids, others, other_ids)


def prompt_logprobs(batch: Any, row: int, submit: wire.Submit) -> list[wire.Logprobs]:
    """The log-probabilities of the prompt, without those of its first token, which has none. The ids are taken from the
    request, because SGLang replaces the last id of the vocabulary.
    """
    values = batch.input_token_logprobs_val[row] or ()
    none: list[Any] = [()] * len(values)
    others = batch.input_top_logprobs_val[row] if submit.top_logprobs else none
    other_ids = batch.input_top_logprobs_idx[row] if submit.top_logprobs else none
    return described(values[1:], submit.input_ids[1:], others[1:], other_ids[1:])


def described(values: Any, ids: Any, others: Any, other_ids: Any) -> list[wire.Logprobs]:
    """Combine four lists from SGLang, each with one entry per token."""
    return [
        (float(value), int(token), list(zip(map(float, ranked or ()), map(int, named or ()), strict=False)))
        for value, token, ranked, named in zip(values, ids, others, other_ids, strict=False)
    ]
