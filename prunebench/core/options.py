"""Options of solvers and problems: fields of a frozen dataclass that are parsed, listed and checked."""

import ast
import dataclasses
import functools
import inspect
import itertools
import linecache
import math
import re
import sys
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np

from prunebench.core.errors import InvalidInput, unknown_name

MOST = 2**63
"""Whole numbers must be smaller: compiled loops use 64-bit integers."""

NOTED = "noted"
"""In a field's metadata: a run directory notes its value to compare it later. It is no option that users give."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: its name, its type and default as text, and its documentation."""

    name: str
    kind: str
    default: str
    doc: str


def options_of(cls: type) -> list[Option]:
    """The options of a dataclass that users give, documented by the string under each field."""
    docs = _field_docs(cls)
    hints = typing.get_type_hints(cls)
    return [
        Option(option_name(item), _type_text(hints[item.name]), repr(_default(item)), docs.get(item.name, ""))
        for item in dataclasses.fields(cls)
        if item.init and NOTED not in item.metadata
    ]


def build(cls: type, options: Mapping[str, Any]) -> Any:
    """An instance of `cls` from options by name; texts are parsed as the field's type.

    Raises
    ------
    UnknownName    an option the class does not have, with the nearest match
    InvalidInput   a value that does not fit the option's type
    """
    hints = kinds_of(cls)
    known = {option_name(item): item.name for item in dataclasses.fields(cls) if item.init}
    owner = getattr(cls, "name", cls.__name__)
    values = {}
    for name, value in options.items():
        if name not in known:
            raise unknown_name(f"option of {owner}", name, [option.name for option in options_of(cls)])
        field = known[name]
        values[field] = parse(f"{owner}: option {name}", value, hints[field]) if isinstance(value, str) else value
        _require_kind(owner, name, values[field], hints[field])
    made = cls(**values)
    require_kinds(made)
    return made


@functools.cache
def kinds_of(cls: type) -> Mapping[str, Any]:
    """The field types of a class by name."""
    return types.MappingProxyType(typing.get_type_hints(cls))


def require_kinds(instance: Any) -> None:
    """Raise InvalidInput unless every option of a dataclass instance has its declared type.

    A float option takes whole numbers too; NaN is never accepted, and whole numbers must fit 64 bits. Types that
    no command-line option has (objects of other libraries) are not checked.
    """
    cls: type = type(instance)
    hints = kinds_of(cls)
    for item in dataclasses.fields(instance):
        if item.init:
            owner = getattr(cls, "name", cls.__name__)
            _require_kind(owner, option_name(item), getattr(instance, item.name), hints[item.name])


def _require_kind(owner: str, name: str, value: Any, kind: Any) -> None:
    if not _fits(value, kind):
        raise InvalidInput(f"{owner}: option {name} is {value!r}; {_rule(kind)}")


def _rule(kind: Any) -> str:
    """The requirement of a type, in words."""
    choices = [name for arm in (typing.get_args(kind) or ()) for name in (typing.get_args(arm) or (arm,))]
    if choices and all(name is type(None) or isinstance(name, str) for name in choices):
        return f"choose one of {', '.join(name for name in choices if isinstance(name, str))}"
    return f"expected {_type_text(kind)}"


def _fits(value: Any, kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arm) for arm in typing.get_args(kind))
    if origin is typing.Literal:
        return isinstance(value, str) and value in typing.get_args(kind)
    if origin is tuple:
        return isinstance(value, (tuple, list)) and all(_fits(part, typing.get_args(kind)[0]) for part in value)
    if kind is bool:
        return isinstance(value, (bool, np.bool_))
    if kind in (int, float):
        if isinstance(value, (bool, np.bool_)):
            return False
        if isinstance(value, (int, np.integer)):
            return abs(int(value)) < MOST
        return kind is float and isinstance(value, (float, np.floating)) and not math.isnan(value)
    if kind is str or kind is type(None):
        return isinstance(value, kind)
    return True


def as_json(instance: Any) -> dict[str, Any]:
    """The options of an instance as JSON-able values; none of one that is no dataclass."""
    if not dataclasses.is_dataclass(instance):
        return {}
    return {
        option_name(item): _plain(getattr(instance, item.name)) for item in dataclasses.fields(instance) if item.init
    }


def option_name(item: "dataclasses.Field[Any]") -> str:
    """An option's name: its metadata's "option" if a method has the field's name, else the field's name."""
    return str(item.metadata.get("option", item.name))


def parse(what: str, text: str, kind: Any) -> Any:
    """`text` as a value of type `kind`: bool, int, float, str, Literal, tuple[T, ...] or a union with None."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        arms = typing.get_args(kind)
        if type(None) in arms and text.lower() in ("none", "null", ""):
            return None
        for arm in (arm for arm in arms if arm is not type(None)):
            try:
                return parse(what, text, arm)
            except InvalidInput:
                continue
        raise InvalidInput(f"{what} is {text!r}; expected {_type_text(kind)}")
    if origin is typing.Literal:
        if text in typing.get_args(kind):
            return text
        raise InvalidInput(f"{what} is {text!r}; choose one of {', '.join(typing.get_args(kind))}")
    if origin is tuple:
        element = typing.get_args(kind)[0]
        return tuple(parse(what, part.strip(), element) for part in text.strip("()[] ").split(",") if part.strip())
    if kind is bool:
        lowered = text.lower()
        if lowered in ("true", "yes", "on", "1"):
            return True
        if lowered in ("false", "no", "off", "0"):
            return False
        raise InvalidInput(f"{what} is {text!r}; expected true or false")
    if kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            raise InvalidInput(f"{what} is {text!r}; expected {_type_text(kind)}") from None
        if not _fits(number, kind):
            raise InvalidInput(f"{what} is {text!r}; expected {_type_text(kind)}")
        return number
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"name": getattr(value, "name", type(value).__name__), **as_json(value)}
    return repr(value)


def _default(item: "dataclasses.Field[Any]") -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return "required"


def _type_text(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(typing.get_args(kind))
    if kind is type(None):
        return "none"
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(_type_text(arm) for arm in typing.get_args(kind))
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return names.get(kind) or str(kind).replace("typing.", "")


def _field_docs(cls: type) -> dict[str, str]:
    """The string literal that follows each annotated field, for `cls` and its dataclass bases."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= _own_docs(base)
    return docs


@functools.cache
def _own_docs(cls: type) -> dict[str, str]:
    """The same for the fields that are written in the class itself."""
    try:
        tree = _without_methods(cls) or ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        return {}
    docs = {}
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    for first, second in itertools.pairwise(body):
        if not (isinstance(first, ast.AnnAssign) and isinstance(first.target, ast.Name)):
            continue
        if isinstance(second, ast.Expr) and isinstance(second.value, ast.Constant):
            docs[first.target.id] = " ".join(str(second.value.value).split())
    return docs


def _without_methods(cls: type) -> ast.Module | None:
    """The source of a top-level class without its methods; None where that needs more than a look at the indentation.

    All sources of all solvers take inspect half a second.
    """
    lines = linecache.getlines(getattr(sys.modules.get(cls.__module__), "__file__", None) or "")
    starts = [at for at, line in enumerate(lines) if re.match(rf"class {cls.__qualname__}\b", line)]
    if len(starts) != 1:
        return None
    kept, method = [lines[starts[0]]], False
    for line in lines[starts[0] + 1 :]:
        if line.strip() and not line.startswith("    "):
            break
        if re.match(r"    \S", line):
            method = re.match(r"    (@|def |async def |\))", line) is not None
        if not method:
            kept.append(line)
    try:
        return ast.parse("".join(kept))
    except SyntaxError:
        return None
