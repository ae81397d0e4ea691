"""A refusal's words become one error of the tree, whatever Triton put around them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_client.answer import ContentDelta, TokensDelta, collect, collect_tokens
from kimi_k2_client.errors import (
    Cancelled,
    ConnectionLost,
    DeadlineExceeded,
    InvalidRequest,
    KimiError,
    NotFound,
    Quarantined,
    ServerFault,
    Unavailable,
    refusal,
)
from kimi_k2_serving.core import errors as core


def leaves(kind: type[core.ServingError]) -> list[type[core.ServingError]]:
    """Those that a model can answer with: the frontend's own never come through Triton."""
    own = [child for child in kind.__subclasses__() if child.__module__ == core.__name__]
    return [kind, *(leaf for child in own for leaf in leaves(child))]


FAMILY = {
    core.InvalidRequest: InvalidRequest,
    core.NotFound: NotFound,
    core.Unavailable: Unavailable,
    core.Cancelled: Cancelled,
    core.DeadlineExceeded: DeadlineExceeded,
    core.Internal: ServerFault,
}
CASES = [(kind, error) for family, error in FAMILY.items() for kind in leaves(family)]


@pytest.mark.parametrize("prefix", ["", "in ensemble 'kimi_k2', ", "[request id: 7] in ensemble 'kimi_k2', "])
@pytest.mark.parametrize(("kind", "error"), CASES, ids=[kind.code for kind, _ in CASES])
def test_every_error_of_the_server_has_its_class_here(
    kind: type[core.ServingError], error: type[KimiError], prefix: str
) -> None:
    theirs = kind("must be: at most 3", field="tools[0].function.name")
    ours = refusal(prefix + str(theirs))
    assert type(ours) is (Quarantined if kind is core.RequestQuarantined else error)
    assert (ours.code, ours.field, ours.detail, ours.status) == (kind.code, theirs.field, theirs.detail, kind.http)
    assert str(ours) == str(theirs)


def test_every_family_of_the_server_is_known_here() -> None:
    assert set(FAMILY) == set(core.ServingError.__subclasses__())


def test_a_detail_is_not_taken_for_a_field() -> None:
    error = refusal("overloaded: 8 requests are waiting: send it again later")
    assert (error.field, error.detail) == ("", "8 requests are waiting: send it again later")


def test_the_code_counts_and_not_the_status_that_triton_made_of_it() -> None:
    error = refusal("engine_lost: the engine died", status=400)
    assert isinstance(error, Unavailable)
    assert error.status == 503


def test_a_request_that_the_engine_died_of_has_an_error_of_its_own() -> None:
    error = refusal("request_quarantined: this request crashed the engine and is refused for now; retry in 600 s")
    assert isinstance(error, Quarantined)
    assert (error.code, error.status) == ("request_quarantined", 503)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_request", InvalidRequest),
        (401, "invalid_request", InvalidRequest),
        (404, "not_found", NotFound),
        (408, "deadline_exceeded", DeadlineExceeded),
        (429, "overloaded", Unavailable),
        (499, "cancelled", Cancelled),
        (500, "internal", ServerFault),
        (501, "unsupported", InvalidRequest),
        (502, "internal", ServerFault),
        (503, "unavailable", Unavailable),
        (504, "deadline_exceeded", DeadlineExceeded),
    ],
)
def test_words_without_a_code_are_classified_by_their_status(status: int, code: str, kind: type[KimiError]) -> None:
    error = refusal("unexpected inference input 'x'", status=status)
    assert (type(error), error.code, error.status, error.field) == (kind, code, status, "")


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Request for unknown model: 'nope' is not found", NotFound),
        ("Request for unknown model: 'kimi_k2' version 1 is not at ready state", Unavailable),
        ("Stub process 'kimi_k2_engine_0_0' is not healthy.", ServerFault),
        ("", ServerFault),
    ],
)
def test_tritons_own_words_are_known_where_there_is_no_status(message: str, kind: type[KimiError]) -> None:
    assert type(refusal(message)) is kind


def test_retry_after_is_kept() -> None:
    error = refusal("overloaded: later", retry_after=3.0)
    assert isinstance(error, Unavailable)
    assert error.retry_after == 3.0


@given(st.text(), st.none() | st.integers(100, 599))
def test_any_words_make_an_error(message: str, status: int | None) -> None:
    assert refusal(message, status=status).detail is not None


def test_events_without_an_end_are_no_answer() -> None:
    with pytest.raises(ConnectionLost):
        collect([ContentDelta("a")])
    with pytest.raises(ConnectionLost):
        collect_tokens([TokensDelta("a")])
