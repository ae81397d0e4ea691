"""Runs the ensemble's last step: one response for each engine response, in order. `execute` never raises.

After each call it confirms to the engine model which responses it has taken. So the engine sends an answer's next
tokens together while this step is busy.

An answer's last response may take long to make: a whole answer is parsed, or validated against the parts of schemas
that no grammar enforced. Such a response is made on another thread. All earlier responses are already sent, so the
order is kept.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kimi_k2_serving import settings
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.enforcer.inspection import Inspector
from kimi_k2_serving.enforcer.worker_client import Worker, WorkerProcess
from kimi_k2_serving.engine import linux, shared_memory
from kimi_k2_serving.engine.abort_channel import AbortSender
from kimi_k2_serving.engine.build import python
from kimi_k2_serving.triton import inputs, journal, tensors
from kimi_k2_serving.triton.chat.answers import Ending, Streams, reported
from kimi_k2_serving.triton.chat.choice import Outputs, Values, parts_of
from kimi_k2_serving.triton.chat.metrics import EnforcementMetrics
from kimi_k2_serving.triton.chat.seal import Seal
from kimi_k2_serving.triton.reply import Reply, failed
from kimi_k2_serving.triton.repository import engine_config

# The number of threads in each of two pools. One pool makes responses. The other waits for the grammar worker, so that
# the first never waits for it.
THREADS = 4
# Python's thread switch interval. Triton's thread waits no longer than this for another thread to release the GIL.
SWITCH_SECONDS = 0.0005


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
    )


class Postprocess:
    """Call `execute` on one thread. Call `stop` after it: answers that are still being inspected get their response."""

    def __init__(
        self, vocabulary: Vocabulary, seal: Seal, aborts: AbortSender, worker: Worker, metrics: EnforcementMetrics
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

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            self._respond(request, Reply(request))
        self._aborts.confirm(self._streams.taken())

    def stop(self) -> None:
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
            if self._streams.asks(context) and reply.cancelled():
                # An empty response, not an error: after an error Triton 24.10 counts the request as in flight for ever.
                self._streams.drop(context)
                reply.send(tensors.response([]))
                return
            made = self._streams.feed(
                context,
                parts_of(
                    given.packed_ids("output_ids"),
                    inputs.ids(given, "index"),
                    inputs.ids(given, "num_output_tokens"),
                    inputs.strings(given, "finish_reason"),
                ),
                prompt_tokens=inputs.value(given, "num_input_tokens") or 0,
                cached_tokens=inputs.value(given, "num_cached_tokens") or 0,
            )
        except Exception as error:
            reply.send(failed(error))
            return
        if isinstance(made, Ending):
            self._begin_end(made, reply)
        else:
            self._pass_on(context, made, reply)

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
