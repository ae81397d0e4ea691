"""What is no schema, or too much of one, is refused by the path where it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kimi_k2_serving.core.errors import InvalidSchema
from kimi_k2_serving.json_schema import schema

ROOT = "tools[3].function.parameters"


def _nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        value = {"type": "object", "properties": {"a": value}}
    return value


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"type": "text"}, ".type"),
        ({"properties": {"x": {"type": []}}}, ".properties.x.type"),
        ({"properties": ["x"]}, ".properties"),
        ({"properties": {"x": 3}}, ".properties.x"),
        ({"anyOf": []}, ".anyOf"),
        ({"anyOf": [{}, {"minLength": -1}]}, ".anyOf[1].minLength"),
        ({"items": {"maxItems": 1.5}}, ".items.maxItems"),
        ({"required": "a"}, ".required"),
        ({"enum": []}, ".enum"),
        ({"multipleOf": 0}, ".multipleOf"),
        ({"minimum": "3"}, ".minimum"),
        ({"pattern": 5}, ".pattern"),
        ({"properties": {"x": {"pattern": "a" * 513}}}, ".properties.x.pattern"),
        ({"patternProperties": {"a" * 513: {}}}, ".patternProperties"),
        ({"properties": {"x": {"$ref": "#/$defs/none"}}}, ".properties.x.$ref"),
        ({"$ref": "https://example.com/schema"}, ".$ref"),
        ({"$ref": "#"}, ""),
        ({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"not": {"$ref": "#/$defs/a"}}}}, ".$defs.a"),
        ({"enum": list(range(4001))}, ""),
        ({"description": "x" * 300_000}, ""),
    ],
)
def test_a_schema_that_is_none_names_its_place(value: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidSchema) as caught:
        schema.read_schema(value, ROOT)
    assert caught.value.field.startswith(ROOT + place[:6])
    assert caught.value.field == ROOT + place or place.startswith(".$defs")


def test_depth_is_bounded() -> None:
    schema.read_schema(_nested(30), ROOT)
    with pytest.raises(InvalidSchema, match="schema_depth"):
        schema.read_schema(_nested(40), ROOT)


def _doubling(links: int) -> dict[str, Any]:
    defs: dict[str, Any] = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(links)}
    return {"$defs": {**defs, f"d{links}": {"type": "string"}}, "$ref": "#/$defs/d0"}


def test_references_that_meet_again_are_counted_every_time() -> None:
    schema.read_schema(_doubling(8), ROOT)
    with pytest.raises(InvalidSchema, match="applies more than 10000 schemas"):
        schema.read_schema(_doubling(200), ROOT)


def test_earlier_drafts_are_read_as_2020_12() -> None:
    old = {
        "items": [{"type": "string"}],
        "additionalItems": False,
        "minimum": 1,
        "exclusiveMinimum": True,
        "dependencies": {"a": ["b"], "c": {"required": ["d"]}},
    }
    assert schema.read_schema(old, ROOT).root == {
        "prefixItems": [{"type": "string"}],
        "items": False,
        "exclusiveMinimum": 1,
        "dependentRequired": {"a": ["b"]},
        "dependentSchemas": {"c": {"required": ["d"]}},
    }


@pytest.mark.parametrize(
    ("value", "reference", "target"),
    [
        ({"$id": "https://a.test/x", "$ref": "y", "$defs": {"y": {"$id": "y"}}}, (), "#/$defs/y"),
        ({"$ref": "#n", "definitions": {"n": {"$id": "#n"}}}, (), "#/definitions/n"),
        ({"$ref": "#n", "definitions": {"n": {"id": "#n"}}}, (), "#/definitions/n"),
        ({"items": [{}, {"$ref": "#/items/0"}]}, ("prefixItems", 1), "#/prefixItems/0"),
        ({"items": [{}], "additionalItems": {"$ref": "#/items/0"}}, ("items",), "#/prefixItems/0"),
        ({"dependencies": {"a": {}}, "allOf": [{"$ref": "#/dependencies/a"}]}, ("allOf", 0), "#/dependentSchemas/a"),
        ({"$ref": "#/components/a~1b", "components": {"a/b": {}}}, (), "#/$defs/components.a~1b"),
        (
            {"properties": {"v": {"$id": "/v", "$ref": "#/$defs/n"}}, "$defs": {"n": {}}},
            ("properties", "v"),
            "#/$defs/n",
        ),
        ({"properties": {"a%b": {}}, "allOf": [{"$ref": "#/properties/a%25b"}]}, ("allOf", 0), "#/properties/a%25b"),
    ],
)
def test_references_of_every_draft_become_pointers(
    value: dict[str, Any], reference: tuple[str | int, ...], target: str
) -> None:
    document = schema.read_schema(value, ROOT)
    place = document.at(reference)
    assert not isinstance(place, bool)
    assert str(place["$ref"]).replace("%24", "$") == target
    document.at(document.resolve(str(place["$ref"])))


def test_what_a_reference_makes_a_schema_is_checked_as_one() -> None:
    with pytest.raises(InvalidSchema) as caught:
        schema.read_schema({"$ref": "#/x/y", "x": {"y": {"type": "text"}}}, ROOT)
    assert caught.value.field == f"{ROOT}.$defs.x.y.type"


def test_a_dynamic_reference_that_depends_on_the_way_is_refused() -> None:
    value = {
        "$id": "https://a.test/root",
        "anyOf": [{"$ref": "one"}, {"$ref": "two"}],
        "$defs": {
            "one": {"$id": "one", "$dynamicAnchor": "t", "items": {"$dynamicRef": "#t"}},
            "two": {"$id": "two", "$dynamicAnchor": "t", "type": "string"},
        },
    }
    with pytest.raises(InvalidSchema, match="refers to nothing"):
        schema.read_schema(value, ROOT)


def test_the_readme_s_example_runs() -> None:
    text = (Path(schema.__file__).parent / "README.md").read_text("utf-8")
    names: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert "[1-7]" in names["grammar"]
    assert names["relaxed"] == ()
