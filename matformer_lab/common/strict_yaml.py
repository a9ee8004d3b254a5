"""YAML, read strictly: safe tags, no aliases, a key given twice refused, errors in one line."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.untrusted import read_small

MAX_YAML_BYTES: Final = 1 << 24
"""More than any recipe, slices file or baseline has."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice and aliases (nothing we read needs them)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} appears twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, Hashable) else None)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises `InputError`."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    return parse_yaml(read_small(path, MAX_YAML_BYTES), str(path))


def parse_yaml(data: bytes, where: str) -> Any:
    """The content of YAML text; `where` names it in an `InputError`."""
    try:
        return yaml.load(data, Loader=_StrictLoader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid YAML ({one_line(error)})") from None
