"""The blocking and the asyncio client have the same public surface, and every public name is explained."""

from __future__ import annotations

import inspect

import pytest

import kimi_k2_client
from kimi_k2_client import AsyncClient, Client
from kimi_k2_client.request import AnswerOptions, ChatOptions, SamplingOptions


def methods(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in vars(kind).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }


def test_both_clients_have_the_same_methods_and_arguments() -> None:
    blocking, asynchronous = methods(Client), methods(AsyncClient)
    assert list(blocking) == list(asynchronous)
    for name, signature in blocking.items():
        assert [str(each) for each in signature.parameters.values()] == [
            str(each) for each in asynchronous[name].parameters.values()
        ], name


def test_their_results_differ_only_in_the_kind_of_stream() -> None:
    for name, signature in methods(Client).items():
        returned = str(methods(AsyncClient)[name].return_annotation)
        assert returned.replace("AsyncStream", "Stream") == str(signature.return_annotation), name


def test_they_are_made_with_the_same_arguments() -> None:
    blocking, asynchronous = (inspect.signature(kind.__init__).parameters for kind in (Client, AsyncClient))
    assert list(blocking) == list(asynchronous)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_every_method_is_explained(kind: type) -> None:
    assert [name for name in methods(kind) if not getattr(kind, name).__doc__] == []


def test_every_public_name_is_explained() -> None:
    undocumented = []
    for name in kimi_k2_client.__all__:
        value = getattr(kimi_k2_client, name)
        made_up = inspect.isclass(value) and (value.__doc__ or "").startswith(f"{name}(")  # by dataclass
        if (inspect.isclass(value) or inspect.isfunction(value)) and (made_up or not value.__doc__):
            undocumented.append(name)
    assert undocumented == []


@pytest.mark.parametrize("options", [SamplingOptions, AnswerOptions, ChatOptions])
def test_every_option_is_explained(options: type) -> None:
    explained = "\n".join(each.__doc__ or "" for each in (SamplingOptions, AnswerOptions, options))
    named = {
        name.strip() for line in explained.splitlines() if ":" in line for name in line.partition(":")[0].split(",")
    }
    assert options.__annotations__.keys() - named == set()
