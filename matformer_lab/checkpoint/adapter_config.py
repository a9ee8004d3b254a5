"""adapter_config.json of a LoRA, for the slice that the LoRA is cut to.

PEFT names modules by suffixes, regular expressions, or lists of layers. What names no layer holds
for a slice as well. What names layers is written out, module by module, with the rank and alpha
that each module had.
"""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import regex

from matformer_lab.common.errors import InputError

CONFIG_FILE: Final = "adapter_config.json"

_MATCHING_SECONDS: Final = 1.0
"""For one pattern and one module; some patterns would take years."""

_UNKNOWN: Final = (
    *("layer_replication", "target_parameters", "megatron_config", "use_qalora", "use_bdlora"),
    *("arrow_config", "monteclora_config", "velora_config"),
)
"""Settings under which a LoRA is not W + scale * B @ A, or not of one module."""


@dataclass(frozen=True)
class LoraModule:
    """A module that an adapter adapts.

    Attributes:
        name: Its name in the model that the adapter was trained on.
        sliced_name: Its name in the slice.
        rank: The rank of its matrices.
    """

    name: str
    sliced_name: str
    rank: int


def check_sliceable(config: Mapping[str, Any], where: str) -> None:
    """Raise `InputError` unless an adapter is a LoRA whose matrices can be cut.

    Args:
        config: Its adapter_config.json.
        where: Names that file in the error.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(
            f"{where}: peft_type is {kind!r:.60}; only a LoRA can be cut to a slice. Merge it into "
            "its base model (PEFT: merge_and_unload) and slice that"
        )
    for key in ("r", "lora_alpha"):
        if not isinstance(config.get(key), int | float) or isinstance(config.get(key), bool):
            raise InputError(f"{where}: {key} is {config.get(key)!r:.60}, expected a number")
    for key in _UNKNOWN:
        if config.get(key):
            raise InputError(
                f"{where}: has {key}, and how a slice cuts that is not known. Merge it into its "
                "base model (PEFT: merge_and_unload) and slice that"
            )


def sliced_config(
    config: Mapping[str, Any],
    modules: Sequence[LoraModule],
    new_index: Mapping[int, int],
    base_model: str | None,
    where: str,
) -> dict[str, Any]:
    """The config of an adapter, cut to a slice.

    Args:
        config: The adapter's, checked.
        modules: The modules that it has in the slice.
        new_index: The kept layers: indices in the slice by indices in the parent.
        base_model: Hub id or folder of the slice; None if it is not known.
        where: Names the adapter's file in an error.

    Raises:
        InputError: A setting is not of the form that PEFT writes.
    """
    changes: dict[str, Any] = {"base_model_name_or_path": base_model, "revision": None}
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    if isinstance(targets, str) or _names_layers(_listed(targets)) or _names_layers(excluded):
        changes["target_modules"] = sorted(module.sliced_name for module in modules)
        changes |= dict.fromkeys(("exclude_modules", "layers_to_transform", "layers_pattern"))
    elif config.get("layers_to_transform") is not None:
        layers = config["layers_to_transform"]
        layers = [layers] if isinstance(layers, int) else layers
        if not isinstance(layers, list) or not all(isinstance(layer, int) for layer in layers):
            raise InputError(f"{where}: layers_to_transform is not a list of layers")
        changes["layers_to_transform"] = [new_index[n] for n in layers if n in new_index]
    ranks = {module.sliced_name: module.rank for module in modules}
    alphas = _pattern(config, "alpha_pattern", where)
    if _names_layers(_pattern(config, "rank_pattern", where)):
        changes["rank_pattern"] = {n: rank for n, rank in ranks.items() if rank != config["r"]}
    if _names_layers(alphas):
        default = config["lora_alpha"]
        own = {one.sliced_name: _matched(alphas, one.name, default, where) for one in modules}
        changes["alpha_pattern"] = {name: alpha for name, alpha in own.items() if alpha != default}
    return {**config, **{k: v for k, v in changes.items() if k in config or v is not None}}


def _pattern(config: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    pattern = config.get(key) or {}
    if not isinstance(pattern, dict):
        raise InputError(f"{where}: {key} is not a mapping of modules to numbers")
    return pattern


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | dict) else ()


def _names_layers(patterns: Any) -> bool:
    """Whether some of the patterns may be about single layers: they have digits, or classes."""
    if isinstance(patterns, str):
        patterns = [patterns]
    return any(re.search(r"[0-9\[]|\\d", str(pattern)) for pattern in _listed(patterns))


def _matched(pattern: Mapping[str, Any], module: str, default: Any, where: str) -> Any:
    """The value of the first pattern that matches a module, as PEFT's `get_pattern_key` finds it.

    (peft.utils.other, 0.21: a pattern is a regular expression for the end of the name.)
    """
    for key, value in pattern.items():
        try:
            with warnings.catch_warnings(action="ignore"):  # of patterns that may mean another
                if regex.match(rf"(.*\.)?({key})$", module, timeout=_MATCHING_SECONDS):
                    return value
        except (regex.error, OverflowError, RecursionError):
            continue
        except TimeoutError:
            raise InputError(
                f"{where}: alpha_pattern: {key!r:.60} takes too long to match; write it otherwise"
            ) from None
    return default
