"""For schemathesis (SCHEMATHESIS_HOOKS=tests.frontend.clients.short_answers): no answer of more than four tokens.

A request without `max_tokens` asks for all that the context has room for: on a real model that is minutes each. Only
lengths that are valid, or left out where they may be, are changed: what is wrong stays wrong.
"""

from __future__ import annotations

from typing import Any

import schemathesis

TOKENS = 4
# Path, the fields that bound an answer, the first of them set where none is given.
BOUNDS: dict[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("max_completion_tokens", "max_tokens"),
    "/v1/completions": ("max_tokens",),
    "/v1/responses": ("max_output_tokens",),
    "/v1/messages": ("max_tokens",),
}
MUST_BE_GIVEN = ("/v1/messages",)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    names, body = BOUNDS.get(case.operation.path, ()), case.body
    if not names or not isinstance(body, dict):
        return
    for name in names:
        given = body.get(name)
        # 58.0 is an integer, too, in JSON.
        if isinstance(given, int | float) and not isinstance(given, bool) and TOKENS < given < 2**31:
            body[name] = TOKENS
    if case.operation.path not in MUST_BE_GIVEN and not any(body.get(name) is not None for name in names):
        body[names[0]] = TOKENS
