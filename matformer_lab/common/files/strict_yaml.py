"""YAML, parsed strictly: plain values only, errors in one line.

PyYAML's parser splits the text into events, and the values are built here, without its
constructors: those take tags (`!!timestamp x`), read `1:59:59` as a number to the base of 60 and
`010` as 8, recurse as deep as the text is nested, and fail in many ways on text that is not meant
well. What is read:

- mappings, lists, and scalars that are text, `null`, `true`, `false`, decimal numbers;
- no tags, no aliases, no duplicate keys, no collections as keys, one document.

Whatever PyYAML's `safe_dump` writes of such values is read back as it was.
"""

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Final

import yaml

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.common.nesting import MAX_NESTING

MAX_YAML_BYTES: Final = 1 << 24
"""Larger than any real recipe, slices file or baseline."""

MAX_VALUES: Final = 500_000
"""Scalars in a file, which take seconds to read; no file of ours has so many."""

MAX_NUMBER: Final = 100
"""Characters of a number; no number of ours is so long."""

_CONSTANTS: Final[dict[str, Any]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9](?:_?[0-9])*)")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
    r"|\.(?:nan|NaN|NAN)"
)
_OF_NUMBERS: Final = "+-.:_0123456789"
_Events: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's are several times faster


def load_yaml(path: Path) -> Any:
    """The content of a YAML file of at most `MAX_YAML_BYTES`.

    Raises:
        InputError: The file is missing, cannot be read, is not a regular file, is too large or is
            not valid YAML.
    """
    return parse_yaml(read_small(path, MAX_YAML_BYTES), str(path))


def parse_yaml(data: bytes, where: str) -> Any:
    """The content of YAML text.

    Args:
        data: The text, in an encoding that YAML allows.
        where: Names the file in an error.

    Raises:
        InputError: The text is not valid YAML, or has what is not read here (above).
    """
    try:
        return _build(yaml.parse(data, Loader=_Events))
    except (yaml.YAMLError, ValueError) as error:
        reason = one_line(error).replace(' in "<byte string>"', "")
        raise InputError(f"{where}: not valid YAML ({reason})") from None


def check_plain(data: bytes, *, tags: Collection[str]) -> None:
    """Check YAML that goes to PyYAML's own constructors, which do not stand up to everything.

    Args:
        data: The text.
        tags: The tags that it may have.

    Raises:
        yaml.YAMLError: It is no YAML.
        ValueError: It has other tags, is nested too deeply, or holds a number that is too long.
    """
    depth = 0
    event: Any
    for event in yaml.parse(data, Loader=_Events):
        if (tag := getattr(event, "tag", None)) not in (None, *tags):
            raise ValueError(f"line {event.start_mark.line + 1}: tag {tag:.40} is not allowed")
        is_plain = isinstance(event, yaml.ScalarEvent) and event.implicit[0]
        if is_plain and not event.value.strip(_OF_NUMBERS):
            _short(event.value)  # `1:59:59` to the base of 60 takes forever
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_NESTING:
            raise ValueError(f"is nested more than {MAX_NESTING} levels deep")


class _Collection:
    """A list or a mapping that is being read."""

    def __init__(self, value: list[Any] | dict[Any, Any]) -> None:
        self.value = value
        self._keys: list[Any] = []  # of a mapping: the key whose value comes next, if any

    def add(self, item: Any) -> None:
        if isinstance(self.value, list):
            self.value.append(item)
        elif self._keys:
            self.value[self._keys.pop()] = item
        elif isinstance(item, list | dict):
            raise ValueError("a key is a list or a mapping; keys are text or numbers")
        elif item in self.value:
            raise ValueError(f"key {item!r:.100} appears twice")
        else:
            self._keys.append(item)


def _build(events: Iterable[Any]) -> Any:
    """The value that the events of a parser describe; None for no document."""
    document = _Collection([])
    stack = [document]
    scalars = 0
    for event in events:
        try:
            if isinstance(event, yaml.DocumentStartEvent) and document.value:
                raise ValueError("holds several documents")
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("aliases (*name) are not allowed")
            if getattr(event, "tag", None) is not None:
                raise ValueError("tags (!name) are not allowed")
            if isinstance(event, yaml.ScalarEvent):
                scalars += 1
                if scalars > MAX_VALUES:
                    raise ValueError(f"holds more than {MAX_VALUES:,} values")
                stack[-1].add(_scalar(event))
            elif isinstance(event, yaml.CollectionStartEvent):
                stack.append(_Collection([] if isinstance(event, yaml.SequenceStartEvent) else {}))
                if len(stack) > MAX_NESTING:
                    raise ValueError(f"is nested more than {MAX_NESTING} levels deep")
            elif isinstance(event, yaml.CollectionEndEvent):
                value = stack.pop().value
                stack[-1].add(value)
        except ValueError as error:
            raise ValueError(f"line {event.start_mark.line + 1}: {error}") from None
    return document.value[0] if document.value else None


def _scalar(event: yaml.ScalarEvent) -> Any:
    text: str = event.value
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text if not c.isprintable()):
        raise ValueError("holds a NUL or half a surrogate pair")
    if not event.implicit[0]:  # quoted, or a block
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[:1] not in "+-.0123456789":
        return text
    if _INTEGER.fullmatch(text):
        return int(_short(text).replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(_short(text).replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _short(number: str) -> str:
    if len(number) > MAX_NUMBER:
        raise ValueError(f"a number of {len(number):,} characters")
    return number
