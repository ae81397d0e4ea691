"""core/errors.py and core/limits.py: the errors that clients get on every transport, and the bounds of requests."""

from __future__ import annotations

import pytest

from kimi_k2_serving.core import errors, limits
from kimi_k2_serving.core.errors import LimitExceeded, Overloaded, ServingError, TritonCode, Unavailable
from kimi_k2_serving.core.limits import Limit

# Per leaf: code, Triton's code, HTTP status, OpenAI's and Anthropic's type.
INVALID = ("INVALID_ARG", 400, "invalid_request_error", "invalid_request_error")
LATER = ("UNAVAILABLE", 503, "server_error", "overloaded_error")
TRANSPORTS = {
    "ServingError": ("internal", "INTERNAL", 500, "server_error", "api_error"),
    "InvalidRequest": ("invalid_request", *INVALID),
    "InvalidJson": ("invalid_json", *INVALID),
    "UnknownField": ("unknown_field", *INVALID),
    "MissingField": ("missing_field", *INVALID),
    "InvalidType": ("invalid_type", *INVALID),
    "InvalidValue": ("invalid_value", *INVALID),
    "LimitExceeded": ("limit_exceeded", *INVALID),
    "InvalidSchema": ("invalid_schema", *INVALID),
    "Unsupported": ("unsupported", *INVALID),
    "ContextLengthExceeded": ("context_length_exceeded", *INVALID),
    "NotFound": ("not_found", "NOT_FOUND", 404, "invalid_request_error", "not_found_error"),
    "Unavailable": ("unavailable", *LATER),
    "Overloaded": ("overloaded", "UNAVAILABLE", 429, "rate_limit_error", "overloaded_error"),
    "EngineUnavailable": ("engine_unavailable", *LATER),
    "EngineLost": ("engine_lost", *LATER),
    "RequestQuarantined": ("request_quarantined", *LATER),
    "ShuttingDown": ("shutting_down", *LATER),
    "Cancelled": ("cancelled", "CANCELLED", 499, "invalid_request_error", "invalid_request_error"),
    "DeadlineExceeded": ("deadline_exceeded", "CANCELLED", 408, "timeout_error", "timeout_error"),
    "Internal": ("internal", "INTERNAL", 500, "server_error", "api_error"),
}


@pytest.mark.parametrize("name", TRANSPORTS)
def test_every_error_has_its_status_on_every_transport(name: str) -> None:
    kind = getattr(errors, name)
    code, triton, *rest = TRANSPORTS[name]
    assert (kind.code, kind.triton, kind.http, kind.openai_type, kind.anthropic_type) == (
        code,
        TritonCode(triton),
        *rest,
    )


def test_the_tree_is_what_these_tests_know() -> None:
    names = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert names == set(TRANSPORTS)


def test_a_message_is_code_field_and_detail() -> None:
    assert str(errors.InvalidValue("must be even", field="seed")) == "invalid_value: seed: must be even"
    assert str(errors.Internal("look into the log")) == "internal: look into the log"
    assert ServingError("x").args == ("x",)


def test_what_may_work_later_says_when() -> None:
    assert (Unavailable("busy").retry_after, Unavailable("busy").field) == (1.0, "")
    error = Overloaded("busy", field="priority", retry_after=2.5)
    assert (error.retry_after, error.field, error.detail) == (2.5, "priority", "busy")


def test_a_bound_is_kept_to_the_last_value() -> None:
    bound = Limit("things", 3, "pieces", "the shelf falls down")
    bound.check(3)
    with pytest.raises(LimitExceeded) as caught:
        bound.check(4, field="box")
    assert str(caught.value) == "limit_exceeded: box: 4 pieces, the limit (things) is 3"
    with pytest.raises(LimitExceeded) as unnamed:
        bound.check(4)
    assert unnamed.value.field == ""


ROWS = {name: value for name, value in vars(limits).items() if isinstance(value, Limit)}


def test_every_bound_has_its_own_name_a_unit_and_a_reason() -> None:
    for name, row in ROWS.items():
        assert row.name == name.lower()
        assert row.value > 0
        assert row.unit
        assert row.guards


# The bounds, written down a second time, because clients and operators rely on them.
BOUNDS = {
    "json_bytes": 16_777_216,
    "json_depth": 128,
    "json_nodes": 500_000,
    "messages": 20_000,
    "tools": 512,
    "tool_calls_per_message": 1_000,
    "name_bytes": 256,
    "stop_strings": 16,
    "stop_bytes": 1_024,
    "stop_token_ids": 64,
    "logit_bias": 1_024,
    "top_logprobs": 20,
    "choices": 32,
    "schema_bytes": 262_144,
    "schema_depth": 32,
    "schema_nodes": 4_000,
    "pattern_characters": 512,
    "tool_calls_per_answer": 128,
    "request_id_bytes": 64,
    "cache_salt_bytes": 256,
    "context_bytes": 512 * 1024,
    "open_contexts": 4_096,
    "open_context_bytes": 64 * 2**20,
    "spent_contexts": 131_072,
    "tensor_elements": 1_024,
    "head_seconds": 10,
    "idle_seconds": 30,
    "body_least_seconds": 10,
    "body_rate": 262_144,
    "body_seconds": 60,
    "stalled_seconds": 120,
    "read_seconds": 60,
    "reading_bytes": 256 * 2**20,
    "node_message_bytes": 2**20,
    "engine_choices": 8,
    "prompt_logprobs": 131_072,
    "node_silence_seconds": 30,
}


def test_bounds_do_not_change_by_accident() -> None:
    assert {row.name: row.value for row in ROWS.values()} == BOUNDS


@pytest.mark.parametrize("prefix", ["", "in ensemble 'kimi_k2', ", "[request id: 7] in ensemble 'kimi_k2', "])
@pytest.mark.parametrize("field", ["", "tools[0].function.name"])
@pytest.mark.parametrize("kind", errors.KINDS.values(), ids=errors.KINDS)
def test_an_error_s_text_is_read_back(kind: type[ServingError], field: str, prefix: str) -> None:
    detail = "must be: at most 3"
    assert errors.parse_message(prefix + str(kind(detail, field=field))) == (kind, field, detail)


def test_a_text_without_a_code_is_no_error_of_ours() -> None:
    assert errors.parse_message("failed to parse: the request: JSON buffer") is None
    assert errors.parse_message("overloaded") is None
