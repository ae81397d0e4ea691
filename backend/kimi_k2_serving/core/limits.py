"""The table of all bounds on the size and the duration of a request: value, unit, and what breaks without the bound.

A bound is checked before any work is done; a value above it is a `LimitExceeded` that names the row. A bound in seconds
is a deadline; after it the request or the connection ends. The context length is not in the table: it belongs to the
checkpoint and the engine.
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
        """Raise LimitExceeded if `actual` exceeds the bound."""
        if actual > self.value:
            raise LimitExceeded(f"{actual} {self.unit}, the limit ({self.name}) is {self.value}", field=field)


JSON_BYTES = Limit("json_bytes", 16 * 2**20, "bytes", "a decoded document takes several times its size in memory")
JSON_DEPTH = Limit("json_depth", 128, "levels", "nested arrays exhaust the interpreter's stack")
JSON_NODES = Limit("json_nodes", 500_000, "values", "small text can decode to a very large object")
MESSAGES = Limit("messages", 20_000, "messages", "each message costs work, however short it is")
TOOLS = Limit("tools", 512, "tools", "each tool adds an alternative to the grammar")
TOOL_CALLS_PER_MESSAGE = Limit("tool_calls_per_message", 1_000, "calls", "the id of each call is rewritten")
NAME_BYTES = Limit("name_bytes", 256, "bytes", "names are repeated in ids, logs and metrics")
STOP_STRINGS = Limit("stop_strings", 16, "strings", "each is matched against every character of the answer")
STOP_BYTES = Limit("stop_bytes", 1_024, "bytes", "text is delayed while it may still become a stop string")
STOP_TOKEN_IDS = Limit("stop_token_ids", 64, "ids", "each is compared with every token")
LOGIT_BIAS = Limit("logit_bias", 1_024, "entries", "a dense vector is built from them")
TOP_LOGPROBS = Limit("top_logprobs", 20, "tokens", "they are part of the answer for each token")
PROMPT_LOGPROBS = Limit(
    "prompt_logprobs", 131_072, "log-probabilities", "they arrive as one message; count tokens times (top_logprobs + 1)"
)
CHOICES = Limit("choices", 32, "choices", "each is a generation of its own")
ENGINE_CHOICES = Limit("engine_choices", 8, "choices", "one request of Triton's is one place in the queue")
SCHEMA_BYTES = Limit("schema_bytes", 256 * 1024, "bytes", "compile time grows with the size")
SCHEMA_DEPTH = Limit("schema_depth", 32, "levels", "the grammar compiler recurses")
SCHEMA_NODES = Limit("schema_nodes", 4_000, "nodes", "compile time grows with the number of nodes")
PATTERN_CHARACTERS = Limit("pattern_characters", 512, "characters", "a pattern becomes an automaton")
TOOL_CALLS_PER_ANSWER = Limit("tool_calls_per_answer", 128, "calls", "the model could write calls without end")
REQUEST_ID_BYTES = Limit("request_id_bytes", 64, "bytes", "every response carries the id")
CACHE_SALT_BYTES = Limit("cache_salt_bytes", 256, "bytes", "the salt is part of every key of the prefix cache")
CONTEXT_BYTES = Limit(
    "context_bytes", 512 * 1024, "bytes", "postprocess reads a context on the thread that serves every answer"
)
OPEN_CONTEXTS = Limit("open_contexts", 4_096, "answers", "an answer that never ends keeps its state for a while")
OPEN_CONTEXT_BYTES = Limit("open_context_bytes", 64 * 2**20, "bytes", "each state holds its context and its schemas")
SPENT_CONTEXTS = Limit("spent_contexts", 131_072, "uids", "used uids are remembered: a context opens state only once")
TENSOR_ELEMENTS = Limit("tensor_elements", 1_024, "elements", "each becomes an object, however short it is")
HEAD_SECONDS = Limit("head_seconds", 10, "seconds", "a connection without a request holds a descriptor")
IDLE_SECONDS = Limit("idle_seconds", 30, "seconds", "a connection between two requests holds a descriptor")
BODY_LEAST_SECONDS = Limit("body_least_seconds", 10, "seconds", "a body that never arrives takes a place in flight")
BODY_RATE = Limit("body_rate", 256 * 1024, "bytes a second", "slower bodies take a place in flight for too long")
BODY_SECONDS = Limit("body_seconds", 60, "seconds", "a large, slow body takes a place in flight for too long")
STALLED_SECONDS = Limit("stalled_seconds", 120, "seconds", "a client that stops reading keeps its generation alive")
READ_SECONDS = Limit("read_seconds", 60, "seconds", "a request that is slow to parse delays the next such request")
READING_BYTES = Limit("reading_bytes", 256 * 2**20, "bytes", "requests that wait for parsing are held in memory")
NODE_MESSAGE_BYTES = Limit("node_message_bytes", 2**20, "bytes", "any machine of the private network can send one")
NODE_SILENCE_SECONDS = Limit(
    "node_silence_seconds", 30, "seconds", "a node behind a cut network is waited for for ever"
)
