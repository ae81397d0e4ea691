"""Makes answers instances of a pydantic model. Its schema is the response format, and it validates the answer.

pydantic is not imported here: any class with `model_json_schema` and `model_validate_json` will do.
"""

from __future__ import annotations

from typing import Any, Protocol, Self, TypeVar

from kimi_k2_client.answer import ChatAnswer
from kimi_k2_client.errors import UnexpectedAnswer
from kimi_k2_serving.core.events import FinishReason


class PydanticModel(Protocol):
    """The methods of a pydantic model's class that are used here."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]: ...

    @classmethod
    def model_validate_json(cls, json_data: str) -> Self: ...


Parsed = TypeVar("Parsed", bound=PydanticModel)


def format_of(kind: type[PydanticModel]) -> dict[str, Any]:
    """The response format that makes the server enforce the model's schema."""
    schema = {"name": kind.__name__, "schema": kind.model_json_schema(), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def parsed(kind: type[Parsed], answer: ChatAnswer) -> Parsed:
    """The answer as an instance of `kind`. Raises UnexpectedAnswer if the answer ended early or is not valid."""
    if answer.finish_reason is FinishReason.LENGTH:
        raise UnexpectedAnswer(f"the answer ended before the {kind.__name__} was complete; raise max_tokens")
    try:
        return kind.model_validate_json(answer.content)
    except ValueError as error:
        raise UnexpectedAnswer(f"the answer is not a valid {kind.__name__}") from error
