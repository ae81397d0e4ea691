"""Give a module that is already imported the behaviour of a changed one, without importing it or its users anew.

The changed source runs in a namespace of its own. Functions take over its code and constants its values; classes, enum
members and functions inside these values are replaced by the module's own of the same name, so that `isinstance` holds.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import sys
import types
from typing import Any


class Ungraftable(Exception):
    """The change can not be made in place."""


def graft(module: types.ModuleType, tree: ast.Module) -> None:
    """Change `module`, and whoever imported a constant of it. Raises what the changed module raises when imported."""
    changed = types.ModuleType(module.__name__)
    changed.__dict__.update(__file__=module.__file__, __package__=module.__package__)
    # Dataclasses look their module up by name.
    sys.modules[module.__name__] = changed
    try:
        exec(compile(tree, str(module.__file__), "exec"), changed.__dict__)
    finally:
        sys.modules[module.__name__] = module
    _members(vars(module), vars(changed), module, module.__name__)


def _members(old: Any, new: Any, owner: Any, module: str) -> None:
    for name, after in list(new.items()):
        before = old.get(name)
        if before is None or (name.startswith("__") and name not in ("__init__", "__missing__", "__str__")):
            continue
        if inspect.isfunction(after) and after.__module__ == module:
            _function(name, before, after, owner)
        elif isinstance(after, classmethod | staticmethod):
            _function(name, before.__func__, after.__func__, None)
        elif isinstance(after, property):
            _function(name, before.fget, after.fget, None)
        elif isinstance(after, type):
            if after.__module__ == module:
                _class(before, after, module)
        elif not isinstance(after, types.ModuleType | types.MemberDescriptorType | enum.Enum):
            _constant(name, before, after, owner, module)


def _function(name: str, before: Any, after: Any, owner: Any) -> None:
    try:
        before.__code__ = after.__code__
    except ValueError as error:
        # It has lost its only use of `super`.
        if owner is None or after.__closure__:
            raise Ungraftable(str(error)) from None
        setattr(owner, name, types.FunctionType(after.__code__, before.__globals__, name, after.__defaults__))
    else:
        before.__defaults__ = after.__defaults__
        before.__kwdefaults__ = after.__kwdefaults__


def _class(before: Any, after: Any, module: str) -> None:
    if issubclass(before, enum.Enum):
        for name, member in after.__members__.items():
            own = before.__members__[name]
            if own._value_ != member._value_:
                before._value2member_map_[member._value_] = own
                own._value_ = member._value_
    _members(vars(before), vars(after), before, module)


def _constant(name: str, before: Any, after: Any, owner: Any, module: str) -> None:
    value = _own(after, module)
    if type(value) is type(before) and value == before:
        return
    if type(value).__eq__ is object.__eq__ and type(value) is type(before):
        # Cannot be compared: a decoder, say. Its parts are functions, and these are grafted by themselves.
        return
    setattr(owner, name, value)
    if isinstance(before, bool | int) or before == "":
        return
    for user in list(sys.modules.values()):
        if getattr(user, name, None) is before:
            setattr(user, name, value)


def _own(value: Any, module: str) -> Any:
    """`value` with the module's own classes, enum members and functions in place of the changed module's."""
    kind = type(value)
    own = sys.modules[module]
    if kind.__module__ == module and hasattr(own, kind.__name__):
        if isinstance(value, enum.Enum):
            return getattr(own, kind.__name__)[value.name]
        if dataclasses.is_dataclass(value):
            fields = {f.name: _own(getattr(value, f.name), module) for f in dataclasses.fields(value)}
            return getattr(own, kind.__name__)(**fields)
    if inspect.isfunction(value) and value.__module__ == module:
        return getattr(own, value.__name__, value)
    match value:
        case dict() if kind is dict:
            return {_own(key, module): _own(each, module) for key, each in value.items()}
        case types.MappingProxyType():
            return types.MappingProxyType(_own(dict(value), module))
        case list() | tuple() | set() | frozenset() if kind in (list, tuple, set, frozenset):
            return kind(_own(each, module) for each in value)
    return value
