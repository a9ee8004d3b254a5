"""pydantic's errors in one line for the user, worded the same for every file that we read."""

import difflib
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

_PLAIN: Final = {
    "bool_type": "should be true or false",
    "dict_type": "should be a mapping, {key: value}",
    "mapping_type": "should be a mapping, {key: value}",
    "list_type": "should be a list",
    "tuple_type": "should be a list",
    "path_type": "should be a path",
    "string_type": "should be a text",
    "string_too_short": "should not be empty",
}
"""pydantic's words that speak of Python, in those of YAML; by type of error."""


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem in one line, with the number of further ones.

    Unknown keys come first, each with the most similar known key: a misspelled key often explains
    the other problems.

    Args:
        error: What `model` raised.
        model: Its fields are the known keys.
    """
    problems = list(_problems(error, model))
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return problems[0] + more


def _problems(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """One line for each key that is wrong."""
    unknown: list[str] = []
    missing: list[str] = []
    wrong: dict[str, list[str]] = {}  # several for a union: one from each branch
    shown: dict[str, str] = {}
    for item in error.errors():
        location = [part for part in item["loc"] if not _is_union_branch(part)]
        key = _dotted(location)
        if item["type"] == "extra_forbidden":
            nearest = _nearest(str(location[-1]), _known_keys(model, location[:-1]))
            unknown.append(
                f"unknown key {key!r}" + (f"; did you mean {nearest!r}?" * bool(nearest))
            )
        elif item["type"] == "missing":
            missing.append(f"key {key!r} is missing")
        else:
            message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
            message = _PLAIN.get(item["type"], message)
            if message not in wrong.setdefault(key, []):
                wrong[key].append(message)
            shown[key] = reprlib.repr(item["input"])
    yield from unknown
    yield from missing
    for key, messages in wrong.items():
        what = " or ".join(messages)
        # What is wrong with the whole says itself which keys it means.
        yield f"{key}: {what} (got {shown[key]})" if key else what


def _is_union_branch(part: int | str) -> bool:
    """Whether a part of a location is not a key but the branch of a union that pydantic tried."""
    return isinstance(part, str) and (
        part in ("str", "none", "bool") or part.startswith(("literal[", "dict[", "constrained-"))
    )


def _dotted(location: Sequence[int | str]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _known_keys(model: type[BaseModel], location: Iterable[int | str]) -> list[str]:
    """The keys of the model at `location` inside `model`."""
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _nearest(word: str, known: Sequence[str]) -> str:
    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, word.lower(), name).ratio()

    return max(known, key=likeness, default="")
