"""The OpenAPI document says what the routes do."""

from __future__ import annotations

from pathlib import Path

import pytest

from kimi_k2_serving.frontend import fields, openapi
from kimi_k2_serving.frontend.anthropic import request as anthropic
from kimi_k2_serving.frontend.app import PUBLIC, ROUTES
from kimi_k2_serving.frontend.openai import chat, completions, responses_request, texts


def test_every_route_and_no_other_is_documented() -> None:
    documented = openapi.build_openapi(["kimi_k2"], secured=True)
    assert isinstance(documented, dict)
    described = {(path, method.upper()) for path, item in documented["paths"].items() for method in item}  # type: ignore[union-attr, call-overload]
    assert described == {(path.replace(":path", ""), method) for path, _, method, _ in ROUTES}


def test_every_field_that_is_read_and_no_other_is_documented() -> None:
    assert set(openapi.CHAT) == chat.KNOWN
    assert set(openapi.COMPLETION) == completions.KNOWN
    assert set(openapi.RESPONSES) == responses_request.KNOWN
    assert set(openapi.COUNT) == anthropic.KNOWN
    assert set(openapi.TOKENIZE) == texts.TOKENIZE
    assert set(openapi.DETOKENIZE) == texts.DETOKENIZE


@pytest.mark.parametrize("module", [chat, completions, responses_request, anthropic])
def test_a_field_is_known_or_ignored_or_refused_and_never_two_of_them(module: object) -> None:
    known, ignored, refused = module.KNOWN, module.IGNORED, set(module.REFUSED)  # type: ignore[attr-defined]
    assert not known & ignored
    assert not known & refused
    assert not ignored & refused


def test_only_health_needs_no_key() -> None:
    documented = openapi.build_openapi(["kimi_k2"], secured=True)
    assert isinstance(documented, dict)
    paths = documented["paths"]
    assert isinstance(paths, dict)
    open_paths = {path for path, item in paths.items() if "security" in next(iter(item.values()))}  # type: ignore[union-attr, arg-type, operator]
    assert open_paths == set(PUBLIC)


def test_the_page_lists_every_route_field_and_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")
    for path, *_ in ROUTES:
        assert path.replace(":path", "") in page or path in ("/openapi.json",)
    for module in (chat, responses_request, anthropic):
        for name in (*module.IGNORED, *module.REFUSED):
            assert f"`{name}`" in page or f"{name}" in page, name
    for name in (*fields.SAMPLING, *chat.KNOWN, *anthropic.REFUSED):
        assert f"`{name}`" in page or name == "model", name
