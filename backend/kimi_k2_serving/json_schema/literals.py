"""The rule of a value that a schema lists. It admits other spellings: white space, members reordered, -2 for -2.0."""

from __future__ import annotations

import json
from itertools import permutations

from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.json_schema import ebnf
from kimi_k2_serving.json_schema.ebnf import EMPTY, Expression, Ref, Seq, Terminal

# Up to this many members of an object may come in any order; more come in the order in which they are listed.
_MEMBERS = 3
# Up to this, every integer is exact as a double.
_EXACT = 2**53


def literal_rule(value: Json) -> Expression:
    match value:
        case float() if value == int(value) and abs(value) <= _EXACT:
            return ebnf.alt((Terminal(str(int(value))), Terminal(json.dumps(value))))
        case list() if value:
            return _between("[", [literal_rule(each) for each in value], "]")
        case dict() if value:
            members = [
                Seq((Terminal(json.dumps(name, ensure_ascii=False) + ":"), Ref("ws"), literal_rule(each)))
                for name, each in value.items()
            ]
            orders = permutations(members) if len(members) <= _MEMBERS else [members]
            return ebnf.alt(_between("{", list(order), "}") for order in orders)
        case _:
            return Terminal(json.dumps(value, ensure_ascii=False))


def _between(opening: str, members: list[Expression], closing: str) -> Expression:
    parts: list[Expression] = [Terminal(opening), Ref("ws")]
    for i, member in enumerate(members):
        parts += [Seq((Terminal(","), Ref("ws"))) if i else EMPTY, member]
    return Seq((*parts, Ref("ws"), Terminal(closing)))
