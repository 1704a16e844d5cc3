"""
YAML that may come from anybody, as plain values: dict, list, str, int, float, bool, None.

Built from the parser's events with a stack of our own, so that nothing recurses. Refused: more than 1 MiB, nesting beyond 32, more
than 100,000 values (aliases counted as often as they are used), keys that are not text or come twice, tags, merge keys. Words that YAML
would turn into dates or base-60 numbers stay text. Whatever is wrong is a ``ConfigError`` that says where.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from vanrouter.errors import ConfigError

__all__ = ["MAX_BYTES", "dump", "load_documents"]

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 100_000
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Final[Any] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18}|0x[0-9a-fA-F]{1,16}|0o[0-7]{1,21})")
_FLOAT: Final = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?")
_WORDS: Final[dict[str, object]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
}


class _Open:
    """A collection whose end has not come yet."""

    def __init__(self, value: dict[str, Any] | list[Any], anchor: str | None) -> None:
        self.value, self.anchor = value, anchor
        self.key: str | None = None
        self.size = 1


class _Builder:
    def __init__(self) -> None:
        self.stack: list[_Open] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.documents: list[Any] = []
        self.total = 0

    def add(self, value: Any, size: int, mark: Any) -> None:
        self.total += size
        if self.total > MAX_VALUES:
            raise _wrong(mark, f"more than {MAX_VALUES} values")
        if not self.stack:
            self.documents.append(value)
            return
        top = self.stack[-1]
        top.size += size
        if isinstance(top.value, list):
            top.value.append(value)
        elif top.key is not None:
            top.value[top.key] = value
            top.key = None
        else:
            if not isinstance(value, str):
                raise _wrong(mark, f"the key {value!r} is not text", hint="put it in quotes")
            if value == "<<":
                raise _wrong(mark, "merge keys (<<) are not supported")
            if value in top.value:
                raise _wrong(mark, f"the key {value!r} comes twice", hint="remove one of them")
            top.key = value

    def start(self, value: dict[str, Any] | list[Any], event: Any) -> None:
        if len(self.stack) >= MAX_DEPTH:
            raise _wrong(event.start_mark, f"nested deeper than {MAX_DEPTH}")
        if event.tag not in (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise _wrong(event.start_mark, f"the tag {event.tag} is not supported")
        self.stack.append(_Open(value, event.anchor))

    def end(self, mark: Any) -> None:
        done = self.stack.pop()
        if done.anchor is not None:
            self.anchors[done.anchor] = (done.value, done.size)
        # Its parts were counted when they came; the collection itself counts one here, and as a whole toward its parent.
        self.total -= done.size - 1
        self.add(done.value, done.size, mark)

    def alias(self, event: Any) -> None:
        if event.anchor not in self.anchors:
            raise _wrong(event.start_mark, f"the alias *{event.anchor} has no anchor before it")
        value, size = self.anchors[event.anchor]
        self.add(value, size, event.start_mark)


def load_documents(text: str | bytes, *, source: str = "input") -> list[Any]:
    """All documents of a YAML or JSON text; empty ones are left out."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source}: {len(text)} bytes; at most {MAX_BYTES} are read", hint="split it into several files")
    try:
        return [document for document in _load(text) if document is not None]
    except yaml.YAMLError as exc:
        raise ConfigError(f"{source}: not valid YAML: {_describe(exc)}", hint="check the indentation and quotes there") from exc
    except UnicodeError as exc:
        raise ConfigError(f"{source}: not valid YAML: not UTF-8 text") from exc
    except ConfigError as exc:
        raise ConfigError(f"{source}: {exc}", hint=exc.hint) from exc


def _load(text: str | bytes) -> list[Any]:
    build = _Builder()
    for event in yaml.parse(text, Loader=_LOADER):
        match event:
            case yaml.ScalarEvent():
                value = _scalar(event)
                if event.anchor is not None:
                    build.anchors[event.anchor] = (value, 1)
                build.add(value, 1, event.start_mark)
            case yaml.MappingStartEvent():
                build.start({}, event)
            case yaml.SequenceStartEvent():
                build.start([], event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                build.end(event.start_mark)
            case yaml.AliasEvent():
                build.alias(event)
            case yaml.DocumentStartEvent():
                build.anchors.clear()
            case _:
                pass
    return build.documents


def _scalar(event: Any) -> Any:
    text: str = event.value
    if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
        raise _wrong(event.start_mark, f"the tag {event.tag} is not supported")
    if not event.implicit[0] or event.tag is not None:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _wrong(mark: Any, what: str, *, hint: str = "") -> ConfigError:
    return ConfigError(f"line {mark.line + 1}, column {mark.column + 1}: {what}", hint=hint)


def _describe(exc: yaml.YAMLError) -> str:
    mark = getattr(exc, "problem_mark", None)
    problem = getattr(exc, "problem", None) or str(exc).splitlines()[0]
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark is not None else str(problem)


class _Dumper(_DUMPER):  # type: ignore[misc]
    """Block style for text of several lines (certificates); no aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: Any, data: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(str, _text)


def dump(values: list[Any]) -> str:
    """Plain values as YAML documents."""
    return "---\n".join(str(yaml.dump(v, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)) for v in values)
