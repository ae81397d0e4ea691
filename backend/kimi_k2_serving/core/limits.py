"""Every bound on what a client may send and how long it may take, in one table: value, unit, what breaks without it.

A bound is checked at the edge, before any work is done, and its breach is a `LimitExceeded` that names the row; one in
seconds is a deadline, whose breach ends the request or the connection.
The context length is no row here: it belongs to the checkpoint and the engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from kimi_k2_serving.core.errors import LimitExceeded


@dataclass(frozen=True, slots=True)
class Limit:
    """One bound: `value` in `unit`; `guards` says what breaks without it."""

    name: str
    value: int
    unit: str
    guards: str

    def check(self, actual: int, *, field: str = "") -> None:
        """Raise LimitExceeded if `actual` is over the bound."""
        if actual > self.value:
            raise LimitExceeded(f"{actual} {self.unit}, the limit ({self.name}) is {self.value}", field=field)


JSON_BYTES = Limit("json_bytes", 16 * 2**20, "bytes", "a document is held in memory several times over")
JSON_DEPTH = Limit("json_depth", 64, "levels", "nested arrays exhaust the interpreter's stack")
JSON_NODES = Limit("json_nodes", 500_000, "values", "small text can decode to a very large object")
MESSAGES = Limit("messages", 20_000, "messages", "per-message work is bounded by bytes alone")
TOOLS = Limit("tools", 512, "tools", "every tool is an alternative of the grammar")
TOOL_CALLS_PER_MESSAGE = Limit("tool_calls_per_message", 1_000, "calls", "ids are rewritten call by call")
NAME_BYTES = Limit("name_bytes", 256, "bytes", "names are repeated in ids, logs and metrics")
STOP_STRINGS = Limit("stop_strings", 16, "strings", "each is matched against every character of the answer")
STOP_BYTES = Limit("stop_bytes", 1_024, "bytes", "text is held back while it may still become a stop string")
STOP_TOKEN_IDS = Limit("stop_token_ids", 64, "ids", "compared with every token")
LOGIT_BIAS = Limit("logit_bias", 1_024, "entries", "a dense vector is built from it")
TOP_LOGPROBS = Limit("top_logprobs", 20, "tokens", "each token's answer grows by it")
CHOICES = Limit("choices", 32, "choices", "each is a generation of its own")
SCHEMA_BYTES = Limit("schema_bytes", 256 * 1024, "bytes", "compile time grows with it")
SCHEMA_DEPTH = Limit("schema_depth", 32, "levels", "the grammar compiler recurses")
SCHEMA_NODES = Limit("schema_nodes", 4_000, "nodes", "compile time grows with it")
PATTERN_CHARACTERS = Limit("pattern_characters", 512, "characters", "a pattern becomes an automaton")
TOOL_CALLS_PER_ANSWER = Limit("tool_calls_per_answer", 128, "calls", "an unbounded section never ends")
REQUEST_ID_BYTES = Limit("request_id_bytes", 64, "bytes", "an id travels with every response")
CACHE_SALT_BYTES = Limit("cache_salt_bytes", 256, "bytes", "every page of the prefix cache is keyed by it")
CONTEXT_BYTES = Limit(
    "context_bytes", 512 * 1024, "bytes", "postprocess reads it on the thread that serves every answer"
)
OPEN_CONTEXTS = Limit("open_contexts", 4_096, "answers", "the state of an answer that never ends stays for a while")
OPEN_CONTEXT_BYTES = Limit("open_context_bytes", 64 * 2**20, "bytes", "each state holds its context and what it checks")
SPENT_CONTEXTS = Limit("spent_contexts", 131_072, "uids", "a context opens state once, so its uid is remembered")
TENSOR_ELEMENTS = Limit("tensor_elements", 1_024, "elements", "each becomes an object, however short")
HEAD_SECONDS = Limit("head_seconds", 10, "seconds", "a connection that asks for nothing holds a descriptor")
IDLE_SECONDS = Limit("idle_seconds", 30, "seconds", "a connection between two requests holds a descriptor")
BODY_LEAST_SECONDS = Limit("body_least_seconds", 10, "seconds", "a body that does not come holds a place in flight")
BODY_RATE = Limit("body_rate", 256 * 1024, "bytes a second", "a second more for each so many bytes of a body")
BODY_SECONDS = Limit("body_seconds", 60, "seconds", "the longest that any body may take to arrive")
STALLED_SECONDS = Limit("stalled_seconds", 120, "seconds", "who takes nothing of an answer holds its generation")
READ_SECONDS = Limit("read_seconds", 60, "seconds", "who sends what is dear to read holds up whoever does so next")
READING_BYTES = Limit("reading_bytes", 256 * 2**20, "bytes", "requests that wait to be read are held in memory")

TABLE: tuple[Limit, ...] = tuple(value for value in dict(globals()).values() if isinstance(value, Limit))
