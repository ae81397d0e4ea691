"""Runs the ensemble's last step: one response for each engine response, in order. `execute` never raises.

After each call it confirms to the engine model which responses it has taken. So the engine sends an answer's next
tokens together while this step is busy.

After an answer's first response, its further ids come over the engine's token socket, if there is one (`relay`). The
engine's responses then only open that path, look whether the client is still there, and bring the end.

An answer's last response may take long to make: a whole answer is parsed, or validated against the parts of schemas
that no grammar enforced. Such a response is made on another thread. All earlier responses are already sent, so the
order is kept.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from kimi_k2_serving import settings
from kimi_k2_serving.core.errors import Cancelled, EngineLost, ServingError, ShuttingDown, parse_message
from kimi_k2_serving.core.limits import OPEN_CONTEXTS
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.enforcer.inspection import Inspector
from kimi_k2_serving.enforcer.worker_client import Worker, WorkerProcess
from kimi_k2_serving.engine import linux, shared_memory
from kimi_k2_serving.engine.abort_channel import AbortSender
from kimi_k2_serving.engine.build import python
from kimi_k2_serving.triton import inputs, journal, tensors
from kimi_k2_serving.triton.chat.answers import Ending, Streams, reported
from kimi_k2_serving.triton.chat.choice import Outputs, Part, Values, parts_of
from kimi_k2_serving.triton.chat.context import address_of, foreign
from kimi_k2_serving.triton.chat.metrics import EnforcementMetrics
from kimi_k2_serving.triton.chat.relay import LastResponse, Relay
from kimi_k2_serving.triton.chat.seal import Seal
from kimi_k2_serving.triton.chat.token_feed import Put, TokenFeed
from kimi_k2_serving.triton.reply import Reply, failed, internal
from kimi_k2_serving.triton.repository import engine_config
from kimi_k2_serving.triton.senders import Senders

# The number of threads in each of two pools. One pool makes responses. The other waits for the grammar worker, so that
# the first never waits for it.
THREADS = 4
# Python's thread switch interval. Triton's thread waits no longer than this for another thread to release the GIL.
SWITCH_SECONDS = 0.0005
# The engine model is heard of each second while postprocess reads an answer's ids itself. An answer of which it has not
# been heard for this long is lost.
SILENT_SECONDS = 30.0
# How long a stop waits for responses that are being sent.
STOP_SECONDS = 2.0


def load_postprocess(model_directory: str, name: str) -> Postprocess:
    """`name` is the model's name. Raises ServingError if engine.yaml or the checkpoint can't be read."""
    journal.begin(name)
    linux.keep_private()
    shared_memory.make_private(os.getpid())
    sys.setswitchinterval(SWITCH_SECONDS)
    vocabulary = Vocabulary.load(engine_config(model_directory).checkpoint)
    runtime = settings.runtime_directory(os.getppid(), settings.Settings.read())
    return Postprocess(
        vocabulary,
        Seal.open(runtime),
        AbortSender(runtime),
        WorkerProcess(None, python=python()),
        EnforcementMetrics(name),
        lambda put: TokenFeed(runtime, put),
    )


class Tokens(Protocol):
    """Where ids come from, past Triton: see `token_feed.TokenFeed`."""

    def want(self, uid: str) -> bool: ...

    def close(self) -> None: ...


class Postprocess:
    """Call `execute` on one thread. Call `stop` after it: answers that are still being inspected get their response."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        seal: Seal,
        aborts: AbortSender,
        worker: Worker,
        metrics: EnforcementMetrics,
        tokens: Callable[[Put], Tokens] | None = None,
    ) -> None:
        self._seal = seal
        self._aborts = aborts
        self._worker = worker
        self._metrics = metrics
        self._streams = Streams(
            vocabulary, seal=seal, abort=aborts.abort, clock=time.monotonic, inspecting=self._inspecting
        )
        self._readers = ThreadPoolExecutor(THREADS, thread_name_prefix="postprocess")
        self._waiters = ThreadPoolExecutor(THREADS, thread_name_prefix="postprocess-check")
        self._senders = Senders(THREADS, "postprocess-send")
        # By uid: the answers whose ids may come over the token socket.
        self._relays: dict[str, Relay] = {}
        # None: all ids come through Triton.
        self._tokens = None if tokens is None else tokens(self._arrived)
        self._opened, self._stopped = threading.Event(), threading.Event()
        threading.Thread(target=self._watch, name="postprocess-watch", daemon=True).start()
        # The uids of the responses that `execute` has taken, except last responses.
        self._taken: list[str] = []

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            self._respond(request, Reply(request))
        taken, self._taken = self._taken, []
        self._aborts.confirm(taken)

    def stop(self) -> None:
        if self._tokens is not None:
            self._tokens.close()
        self._stopped.set()
        self._opened.set()
        for relay in list(self._relays.values()):
            relay.end(LastResponse(None, error=ShuttingDown("the server is stopping")))
        self._senders.shutdown(STOP_SECONDS)
        self._worker.close()
        self._readers.shutdown()
        self._waiters.shutdown()
        self._aborts.close()
        self._metrics.close()
        self._seal.close()

    def _inspecting(self) -> None:
        """Start the worker, if this is the first answer to be inspected, and count the answer."""
        self._worker.start()
        self._metrics.began()

    def _respond(self, request: Any, reply: Reply) -> None:
        try:
            given = tensors.Arrived(request)
            context = inputs.value(given, "request_context") or ""
            line = address_of(context)
            uid = line.partition(" ")[0]
            relay = self._relays.get(uid)
            if relay is not None and relay.line != line:
                relay = None
            if self._streams.asks(context) and reply.cancelled():
                self._leave(context, relay)
                # An empty response, not an error: after an error Triton 24.10 counts the request as in flight for ever.
                reply.send(tensors.response([]))
                return
            if relay is not None and relay.reply is not None:
                self._control(relay, given, reply)
                return
            mark = inputs.value(given, "relay")
            if mark or (mark == "" and relay is None):
                # The engine model failed before it could open this path, or nobody has asked for it.
                self._leave(context, relay)
                raise stated(mark) if mark else foreign()
            parts = parts_of(
                given.packed_ids("output_ids"),
                inputs.ids(given, "index"),
                inputs.ids(given, "num_output_tokens"),
                inputs.strings(given, "finish_reason"),
            )
            prompt, cached = prompt_counts(given)
            made = self._streams.feed(context, parts, prompt_tokens=prompt, cached_tokens=cached)
        except Exception as error:
            reply.send(failed(error))
            return
        if line in self._streams:
            self._taken.append(uid)
        else:
            self._relays.pop(uid, None)
        if isinstance(made, Ending):
            self._begin_end(made, reply)
            return
        ids = len(parts[0].ids)
        if relay is not None:
            relay.begin(ids)
            if mark is not None:
                self._open(relay, made, reply)
                return
        self._pass_on(context, made, reply)
        if self._tokens is not None and self._streams.relayed(context):
            self._ask(self._tokens, line, ids)

    # The ids that come over the token socket.

    def _ask(self, tokens: Tokens, line: str, ids: int) -> None:
        """Ask for the further ids of an answer. `ids`: the number of those that came with its first response."""
        if len(self._relays) >= OPEN_CONTEXTS.value:
            self._sweep()
            if len(self._relays) >= OPEN_CONTEXTS.value:
                return
        relay = Relay(line, self._senders, pass_on=self._relay, failed=self._failed, finish=self._finish_relay)
        relay.begin(ids)
        self._relays[relay.uid] = relay
        try:
            asked = tokens.want(relay.uid)
        except Exception as error:
            journal.error(f"asking for ids failed: {type(error).__name__}: {error}")
            asked = False
        if not asked:
            self._relays.pop(relay.uid, None)

    def _arrived(self, uid: str, ids: Sequence[int], last: bool) -> None:
        """Ids from the token socket, on its thread. Those of an answer that is not expected any more are dropped."""
        relay = self._relays.get(uid)
        if relay is not None:
            relay.put(ids, last=last)

    def _open(self, relay: Relay, outputs: Outputs, reply: Reply) -> None:
        """The engine sends no further ids here. This response stays open for those of the token socket."""
        try:
            # The engine may tell this with ids or without.
            silent = [(tensor.name, *values) for tensor, values in outputs] == [("text_output", "")]
            if not silent and not reply.pass_on(tensors.response(outputs)):
                raise internal()
        except Exception as error:
            relay.fail(error)
            self._failed(relay)
        relay.open(reply)
        self._opened.set()

    def _control(self, relay: Relay, given: tensors.Arrived, reply: Reply) -> None:
        """A response of the engine while the ids come over the token socket."""
        relay.heard_at = time.monotonic()
        error, finish = inputs.value(given, "relay"), inputs.value(given, "finish_reason")
        if error == "":
            raise foreign()
        if error is None and finish is None:
            self._taken.append(relay.uid)
            reply.close()
            return
        total = inputs.value(given, "num_output_tokens") or 0
        prompt, cached = prompt_counts(given)
        failure = None if error is None else stated(error)
        if not relay.end(LastResponse(reply, total, finish or "", prompt, cached, failure)):
            raise EngineLost("this answer has ended already; send the request again")

    def _leave(self, context: str, relay: Relay | None) -> None:
        """The client has left."""
        self._streams.drop(context)
        if relay is not None and relay.reply is None:
            self._relays.pop(relay.uid, None)
        elif relay is not None:
            relay.end(LastResponse(None, error=Cancelled("cancelled by the client")))

    def _relay(self, relay: Relay, ids: Sequence[int]) -> None:
        assert relay.reply is not None
        outputs = self._streams.feed(relay.line, [Part(0, ids)], prompt_tokens=0, cached_tokens=0)
        assert not isinstance(outputs, Ending)
        if not relay.reply.pass_on(tensors.response(outputs)):
            raise internal()

    def _failed(self, relay: Relay) -> None:
        try:
            self._streams.drop(relay.line)
        except Exception as error:
            journal.error(f"ending a run failed: {type(error).__name__}: {error}")

    def _finish_relay(self, relay: Relay, ids: Sequence[int], last: LastResponse) -> None:
        assert relay.reply is not None
        self._relays.pop(relay.uid, None)
        relay.reply.close()
        if last.reply is None:
            return
        try:
            if last.error is not None:
                raise last.error
            made = self._streams.feed(
                relay.line,
                [Part(0, ids, last.finish)],
                prompt_tokens=last.prompt_tokens,
                cached_tokens=last.cached_tokens,
            )
            assert isinstance(made, Ending)
        except Exception as error:
            response = failed(error)
            with contextlib.suppress(Exception):
                self._streams.drop(relay.line)
                response = tensors.response([]) if last.reply.cancelled() else response
            last.reply.send(response)
            return
        self._begin_end(made, last.reply)

    def _watch(self) -> None:
        """End the answers of which the engine model has not been heard for too long. Without any, wait."""
        while self._opened.wait() and not self._stopped.is_set():
            self._opened.clear()
            while any(relay.reply is not None for relay in list(self._relays.values())):
                if self._stopped.wait(SILENT_SECONDS / 10):
                    return
                self._sweep()

    def _sweep(self) -> None:
        late = time.monotonic() - SILENT_SECONDS
        for uid, relay in list(self._relays.items()):
            if relay.reply is None and relay.line not in self._streams:
                self._relays.pop(uid, None)
            elif relay.reply is not None and relay.heard_at < late:
                self._failed(relay)
                relay.end(LastResponse(None, error=EngineLost("the engine model is silent")))

    def _pass_on(self, context: str, outputs: Outputs, reply: Reply) -> None:
        """Send a response in the middle of an answer."""
        try:
            response = tensors.response(outputs)
        except Exception as error:
            self._streams.drop(context)
            reply.send(failed(error))
            return
        if not reply.send(response):
            self._streams.drop(context)

    def _begin_end(self, ending: Ending, reply: Reply) -> None:
        try:
            if not ending.light:
                self._readers.submit(self._finish, ending, reply)
                return
            values = ending.values()
        except Exception as error:
            self._fail(ending, reply, error)
            return
        self._end(ending, values, reply)

    def _finish(self, ending: Ending, reply: Reply) -> None:
        try:
            values, inspectors = ending.values(), ending.inspectors()
            if any(inspector.large for inspector in inspectors):
                self._waiters.submit(self._report, ending, values, inspectors, reply)
                return
        except Exception as error:
            self._fail(ending, reply, error)
            return
        self._report(ending, values, inspectors, reply)

    def _report(self, ending: Ending, values: Sequence[Values], inspectors: Sequence[Inspector], reply: Reply) -> None:
        try:
            if inspectors:
                reports = [inspector.report(self._worker, since=ending.arrived) for inspector in inspectors]
                for report in reports:
                    self._metrics.reported(report)
                values = [reported(each, report) for each, report in zip(values, reports, strict=True)]
        except Exception as error:
            self._fail(ending, reply, error)
            return
        self._end(ending, values, reply)

    def _end(self, ending: Ending, values: Sequence[Values], reply: Reply) -> None:
        with ending.totals.order:
            try:
                response = tensors.response(ending.outputs(values))
            except Exception as error:
                self._fail(ending, reply, error)
                return
            if not reply.send(response):
                self._end_others(ending)

    def _fail(self, ending: Ending, reply: Reply, error: Exception) -> None:
        """One answer's error is the request's: nobody reads the other answers."""
        self._end_others(ending)
        reply.send(failed(error))

    def _end_others(self, ending: Ending) -> None:
        context = ending.totals.context
        if context.choices > 1:
            self._aborts.abort(context.uid)


def prompt_counts(given: tensors.Arrived) -> tuple[int, int]:
    """The prompt's tokens, and those of them that came from the cache. Only the last response has them."""
    return inputs.value(given, "num_input_tokens") or 0, inputs.value(given, "num_cached_tokens") or 0


def stated(text: str) -> ServingError:
    """The error that the engine model states in `text`."""
    found = parse_message(text)
    if found is None:
        return internal()
    kind, field, detail = found
    return kind(detail, field=field)
