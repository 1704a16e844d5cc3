"""
``docs/api.md``, made from the docstrings: ``python -m vanrouter.embed.reference > docs/api.md``. A test says when it is not current.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any, Final

import vanrouter.errors
from vanrouter import embed
from vanrouter.embed import asgi, http

__all__ = ["render"]

_INTRO: Final = """\
# The embedding API

<!-- Generated: python -m vanrouter.embed.reference > docs/api.md -->

How to use it, with examples: [embedding.md](embedding.md). Names are in `vanrouter.embed`; `open`, `Van`, `Stream`, `StreamBroken` and
`Serving` are in `vanrouter` too.
"""

_ORDER: Final = ("open", "Van", "Serving", "Stream", "StreamBroken", "StreamClosed", "StreamBusy", "Service", "Listener")
_EVENTS: Final = ("LinkUp", "LinkDown", "ServiceUp", "ServiceDown")
_ERRORS: Final = (
    "VanrouterError",
    "ConfigError",
    "TokenError",
    "StoreError",
    "StreamError",
    "NoSuchKey",
    "StreamRefused",
    "StreamDenied",
    "StreamReset",
    "UsageError",
    "DeadlineExceeded",
)
_NOTHING: Final = ("None", "<class 'inspect._empty'>")
_WIDTH: Final = 120


def render() -> str:
    """The whole page."""
    lines = [_INTRO]
    for name in _ORDER:
        lines += _entry(name, getattr(embed, name), "##")
    lines += ["## Events", "", *_text(inspect.getmodule(embed.LinkUp))]
    for name in _EVENTS:
        lines += _entry(name, getattr(embed, name), "###")
    lines += ["## Errors", "", "All are in `vanrouter.errors`; those of streams are above.", ""]
    for name in _ERRORS:
        lines += _entry(name, getattr(vanrouter.errors, name), "###")
    for module, names in ((http, http.__all__), (asgi, asgi.__all__)):
        lines += [f"## {module.__name__}", "", *_text(module)]
        for name in names:
            lines += _entry(name, getattr(module, name), "###")
    return "\n".join(lines).rstrip() + "\n"


def _entry(name: str, what: Any, level: str) -> Iterator[str]:
    if isinstance(what, FunctionType) or not isinstance(what, type):
        yield from (f"{level} `{name}`", "", *_code(_signatures(name, what)), *_text(what))
        return
    yield from (f"{level} `{name}`", "")
    bases = [base.__name__ for base in what.__bases__ if base.__module__.startswith("vanrouter")]
    if bases:
        yield from (f"A `{'`, `'.join(bases)}`.", "")
    yield from _text(what)
    for field, doc in _fields(what):
        yield f"- `{field}`{': ' + doc if doc else ''}"
    if list(_fields(what)):
        yield ""
    if "__init__" in vars(what) and name in http.__all__:
        yield from (*_code(_signatures(name, vars(what)["__init__"])), *_text(vars(what)["__init__"]))
    for key, member in vars(what).items():
        if key.startswith("_") or not isinstance(member, FunctionType | property) or not inspect.getdoc(member):
            continue
        if isinstance(member, property):
            yield from (f"{level}# `{name}.{key}`", "", *_text(member))
        else:
            yield from (f"{level}# `{name}.{key}`", "", *_code(_signatures(key, member)), *_text(member))


def _signatures(name: str, function: Any) -> list[str]:
    return [_signature(name, one) for one in typing.get_overloads(function) or [function]]


def _signature(name: str, function: Any) -> str:
    inner = inspect.unwrap(function)
    if hasattr(inner, "__init__") and inspect.isclass(inner):
        inner = inner.__init__
    signature = inspect.signature(inner)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    gives = str(signature.return_annotation)
    asynchronous = inspect.iscoroutinefunction(inner)
    if inner is not function and (found := re.fullmatch(r"(?:Async)?Iterator\[(.*)\]", gives)):
        word, gives = "async with ", found[1]
    else:
        word = "await " if asynchronous else ""
    shown = f"{word}{name}({', '.join(_parameters(parameters))})" + ("" if gives in _NOTHING else f" -> {gives}")
    if len(shown) > _WIDTH:
        listed = "".join(f"    {parameter},\n" for parameter in _parameters(parameters))
        shown = f"{word}{name}(\n{listed})" + ("" if gives in _NOTHING else f" -> {gives}")
    return shown


def _parameters(parameters: list[inspect.Parameter]) -> list[str]:
    found, keyword_only = [], False
    for parameter in parameters:
        text = f"{parameter.name}: {parameter.annotation}"
        if parameter.default is not inspect.Parameter.empty:
            text += " = ..." if "TASK_STATUS" in repr(parameter.default) else f" = {parameter.default!r}"
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            found.append("*")
        found.append(text)
    return found


def _fields(what: type) -> Iterator[tuple[str, str]]:
    """Annotated attributes of the class itself, each with the text that stands under it."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(what))).body[0]
    except OSError:
        return
    assert isinstance(body, ast.ClassDef)
    for at, node in enumerate(body.body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
            after = body.body[at + 1] if at + 1 < len(body.body) else None
            doc = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
                doc = " ".join(after.value.value.split())
            yield f"{node.target.id}: {ast.unparse(node.annotation)}", _marked(doc)


def _code(lines: list[str]) -> list[str]:
    return ["```python", *lines, "```", ""]


def _text(what: Any) -> Iterator[str]:
    """The docstring as Markdown: indented examples are code, ``Args:`` is a list."""
    doc = (what.__doc__ if isinstance(what, ModuleType) else inspect.getdoc(what)) or ""
    for paragraph in inspect.cleandoc(doc).split("\n\n"):
        lines = paragraph.splitlines()
        if lines and lines[0] == "Args:":
            for line in textwrap.dedent("\n".join(lines[1:])).splitlines():
                name, _, rest = line.partition(": ")
                yield f"- `{name}`: {_marked(rest)}" if not line.startswith(" ") else f"  {_marked(line.strip())}"
        elif lines and all(line.startswith("    ") for line in lines):
            yield from ("```python", *textwrap.dedent(paragraph).splitlines(), "```")
        else:
            yield _marked(" ".join(paragraph.split()))
        yield ""


def _marked(text: str) -> str:
    return re.sub(r"``(.+?)``", r"`\1`", text)


if __name__ == "__main__":
    print(render(), end="")
