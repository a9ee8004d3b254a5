"""YAML, parsed strictly: safe tags, no aliases, no duplicate keys, errors in one line."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.untrusted import read_small

MAX_YAML_BYTES: Final = 1 << 24
"""Larger than any real recipe, slices file or baseline."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, and aliases, which no file of ours needs."""

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
    """The content of a YAML file of at most `MAX_YAML_BYTES`.

    Raises:
        InputError: The file is missing, cannot be read, is too large or is not valid YAML.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    return parse_yaml(read_small(path, MAX_YAML_BYTES), str(path))


def parse_yaml(data: bytes, where: str) -> Any:
    """The content of YAML text.

    Args:
        data: The text, in an encoding that YAML allows.
        where: Names the file in an error.

    Raises:
        InputError: The text is not valid YAML, or has a duplicate key or an alias.
    """
    try:
        return yaml.load(data, Loader=_StrictLoader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid YAML ({one_line(error)})") from None
