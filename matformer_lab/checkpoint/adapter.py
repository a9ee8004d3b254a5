"""A LoRA that was trained on a parent, cut to a slice of it: one adapter serves every slice.

A LoRA adds scale * B @ A to a weight W. Where a slice keeps some rows of W it keeps those rows of
B; where it keeps some columns of W, those columns of A. So the cut adapter on the slice gives the
slice of the merged model. Layers that the slice skips are left out, the others renumbered.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matformer_lab.checkpoint.adapter_config import (
    CONFIG_FILE,
    LoraModule,
    check_sliceable,
    sliced_config,
)
from matformer_lab.checkpoint.card import CARD_FILE
from matformer_lab.checkpoint.contents import read_tokenizer_files
from matformer_lab.checkpoint.disk.shard_writer import growing_name, write_shards
from matformer_lab.checkpoint.disk.shards import make_shard
from matformer_lab.checkpoint.disk.staging import check_target, published_before, staging
from matformer_lab.checkpoint.manifest import digest_of
from matformer_lab.common.errors import InputError
from matformer_lab.common.files.atomic import write_atomic
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.common.files.written_json import written_json
from matformer_lab.common.markdown import escape_markdown
from matformer_lab.common.paths import StrPath, to_path
from matformer_lab.common.spans import Span
from matformer_lab.common.version import __version__
from matformer_lab.gemma3n import (
    LM_HEAD,
    TEXT_ONLY_PREFIX,
    expected_tensors,
    is_known,
    layer_tensor,
    split_layer,
)
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.parent.references import is_file
from matformer_lab.parent.weights.headers import TensorInfo, read_header
from matformer_lab.parent.weights.links import path_inside
from matformer_lab.parent.weights.spelling import FULL_PREFIX
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import Plan, TensorPlan, make_plan
from matformer_lab.slicing.slice import Slice

WEIGHTS_FILE: Final = "adapter_model.safetensors"

_AROUND: Final = "base_model.model."
"""What PEFT puts before the names of the model's modules."""

_PREFIXES: Final = (FULL_PREFIX, "language_model.model.", "language_model.", TEXT_ONLY_PREFIX)
"""How models name their text part, longest first where one begins like another."""

_KIND: Final = re.compile(
    r"(?P<module>.+?)\.(?P<kind>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_[AB]|"
    r"lora_magnitude_vector(?:\.weight)?|token_adapter\.trainable_tokens_delta|weight|bias)"
)


@dataclass(frozen=True)
class SlicedAdapter:
    """What `slice_adapter` wrote. As a string, the line that `matformer-lab slice` prints.

    Attributes:
        folder: The adapter.
        slice: The name of the slice that it is for.
        tensors: How many tensors it has.
        nbytes: Their bytes.

    Examples:
        >>> from pathlib import Path
        >>> import matformer_lab as ml
        >>> print(ml.SlicedAdapter(Path("lora-e2b"), "e2b", tensors=300, nbytes=48_000))
        lora-e2b: adapter for e2b, 300 tensors, 48,000 bytes
    """

    folder: Path
    slice: str
    tensors: int
    nbytes: int

    def __str__(self) -> str:
        return (
            f"{self.folder}: adapter for {self.slice}, {self.tensors} tensors, "
            f"{self.nbytes:,} bytes"
        )


def is_adapter(folder: StrPath) -> bool:
    """Whether a folder holds an adapter, and no checkpoint."""
    path = Path(folder)
    return is_file(path / CONFIG_FILE) and not is_file(path / "config.json")


def slice_adapter(
    adapter: StrPath,
    slice_: Slice | str,
    out: StrPath,
    *,
    parent: Parent | StrPath | None = None,
    text_only: bool = False,
    base_model: str | None = None,
) -> SlicedAdapter:
    """Cut a LoRA that was trained on a parent to a slice of it.

    Args:
        adapter: The folder that PEFT's `save_pretrained` wrote.
        slice_: A slice of the parent, or what `resolve_slice` accepts.
        out: The folder to write, new or empty.
        parent: What the adapter was trained on, of which only config and headers are read; None:
            what its adapter_config.json says.
        text_only: Whether it is for a slice that was written so.
        base_model: Hub id or folder of the slice, for adapter_config.json; None: it names none.

    Raises:
        InputError: The folder is not a LoRA of this parent, a part of it cannot be cut, or `out`
            cannot be used.

    Examples:
        A LoRA on one FFN, as PEFT saves it:

        >>> import json
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from safetensors.numpy import save_file
        >>> import matformer_lab as ml
        >>> lora = Path("lora")
        >>> lora.mkdir()
        >>> config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up_proj"]}
        >>> _ = (lora / "adapter_config.json").write_text(json.dumps(config))
        >>> b, a = np.ones((64, 2), np.float32), np.ones((2, 16), np.float32)
        >>> module = "base_model.model.model.layers.34.mlp.up_proj"
        >>> tensors = {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
        >>> save_file(tensors, lora / "adapter_model.safetensors")
        >>> print(ml.slice_adapter(lora, "1/4", "quarter", parent="tiny"))
        quarter: adapter for uniform-1-4, 2 tensors, 256 bytes
    """
    folder, out = Path(adapter), to_path(out)
    where = str(folder / CONFIG_FILE)
    config = strict_json(
        read_small(path_inside(folder, CONFIG_FILE, str(folder))), where, as_written=True
    )
    check_sliceable(config, where)
    opened = open_parent(parent or _base_of(config, where))
    slice_ = resolve_slice(slice_, opened)
    plan = make_plan(opened, slice_, text_only=text_only)
    layout = _layout(folder)
    cuts = _Cuts(plan, text_only and opened.multimodal, str(folder / WEIGHTS_FILE))
    tensors = [cut for name, info in layout.items() for cut in cuts.of(name, info)]
    if not tensors:
        raise InputError(f"{folder}: nothing of it is left in {slice_.name}")
    sliced = sliced_config(config, cuts.modules(tensors), cuts.new_index, base_model, where)
    shard = make_shard(WEIGHTS_FILE, sorted(tensors, key=lambda tensor: tensor.name))
    files = {
        **read_tokenizer_files(folder),
        CONFIG_FILE: (written_json(sliced) + "\n").encode(),
        CARD_FILE: _card(plan, folder, base_model).encode(),
    }
    order = {
        "adapter": digest_of(read_small(folder / CONFIG_FILE)),
        "header": digest_of(shard.header),
        "files": {name: digest_of(data) for name, data in sorted(files.items())},
        "writes": [
            f"work/{growing_name(shard)}",
            *sorted(f"files/{n}" for n in (*files, WEIGHTS_FILE)),
        ],
    }
    result = SlicedAdapter(out, slice_.name, len(tensors), sum(t.nbytes for t in tensors))
    if published_before(out, order):
        return result
    check_target(folder, out)
    with staging(out, folder, order) as stage:
        write_shards(folder, [shard], stage.files, stage.subfolder("work"))
        for name, data in files.items():
            write_atomic(stage.files / name, data)
        stage.publish()
    return result


def _base_of(config: Mapping[str, Any], where: str) -> str:
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError(f"{where}: names no base model; give `adapter_of`, what it was trained on")
    return base


def _layout(folder: Path) -> dict[str, TensorInfo]:
    path = path_inside(folder, WEIGHTS_FILE, str(folder))
    if not path.exists():
        pickled = (folder / "adapter_model.bin").exists()
        why = "its weights are a pickle (.bin), which can run code; save it as safetensors"
        raise InputError(f"{folder}: {why if pickled else f'has no {WEIGHTS_FILE}'}")
    return read_header(path)


class _Cuts:
    """What a slice keeps of an adapter's tensors."""

    def __init__(self, plan: Plan, renamed: bool, where: str) -> None:
        """`renamed`: the slice is text-only, and its parent is not."""
        self._plan, self._renamed, self._where = plan, renamed, where
        self.new_index = {layer: index for index, layer in enumerate(plan.kept)}
        self._planned = plan.text_tensors()
        self._shapes = {t.name: t.shape for t in expected_tensors(plan.parent.text)}
        self._names: dict[str, str] = {}

    def of(self, name: str, info: TensorInfo) -> Iterator[TensorPlan]:
        """The part of one of the adapter's tensors that the slice has, if it has one."""
        match = _KIND.fullmatch(name.removeprefix(_AROUND))
        if match is None:
            raise InputError(
                f"{self._where}: how a slice cuts {name} is not known; merge the adapter into its "
                "base model (PEFT: merge_and_unload) and slice that"
            )
        module, kind = match["module"], match["kind"]
        if not info.shape:
            raise InputError(f"{self._where}: {name} is a single number, not a matrix of a LoRA")
        prefix = next((p for p in _PREFIXES if _is_text(module, p)), None)
        if prefix is None:
            layers = (split_layer(module.removeprefix(p)).layer for p in _PREFIXES)
            if any(layer is not None for layer in layers):
                raise InputError(f"{self._where}: {name} belongs to no module of Gemma 3n")
            if f"{module}.weight" == LM_HEAD or not self._renamed:
                yield self._named(name, module, module, info, None)
            return
        bare = module.removeprefix(prefix)
        weight = f"{bare}.weight"
        layer, rest = split_layer(weight)
        if layer is not None:
            if layer not in self.new_index:
                return
            weight = layer_tensor(self.new_index[layer], rest)
        planned = self._planned.get(weight)
        self._check_shape(name, kind, info, self._shapes.get(f"{bare}.weight"), bare)
        text_prefix = TEXT_ONLY_PREFIX if self._renamed else prefix
        renamed = text_prefix + weight.removesuffix(".weight")
        cut = None
        if planned is not None and planned.axis is not None:
            cut = self._cut_of(name, kind, planned)
        yield self._named(name, module, renamed, info, cut)

    def _named(
        self,
        name: str,
        module: str,
        renamed: str,
        info: TensorInfo,
        cut: "tuple[int, tuple[Span, ...]] | None",
    ) -> TensorPlan:
        new = name.replace(module, renamed, 1)
        self._names[new] = module
        return TensorPlan(new, name, info, *(cut or (None, ())))

    def _cut_of(
        self, name: str, kind: str, weight: TensorPlan
    ) -> "tuple[int, tuple[Span, ...]] | None":
        """Along which of the tensor's axes the cut of its weight falls, if along any."""
        assert weight.axis is not None
        if kind == "weight":
            return weight.axis, weight.ranges
        if (
            "embedding" in kind or "trainable_tokens" in kind
        ):  # a table, transposed: rows are tokens
            of_columns = {"lora_embedding_B": 0, "token_adapter.trainable_tokens_delta": 1}
            return (of_columns[kind], weight.ranges) if kind in of_columns else None
        if weight.axis == 0:
            return None if kind == "lora_A.weight" else (0, weight.ranges)
        if kind.startswith("lora_magnitude_vector"):
            raise InputError(
                f"{self._where}: {name} is DoRA's: it scales whole rows of the tuned weight "
                "by their norms, and a slice keeps only some columns, so it cannot be cut; "
                "merge the adapter into its base model (PEFT: merge_and_unload) and slice that"
            )
        return (1, weight.ranges) if kind == "lora_A.weight" else None

    def _check_shape(
        self, name: str, kind: str, info: TensorInfo, shape: tuple[int, ...] | None, bare: str
    ) -> None:
        """Raise `InputError` if a tensor is not of the size of the parent's weight."""
        if shape is None or len(shape) != 2:
            return
        rows, columns = shape
        wanted: dict[str, tuple[int, int]] = {
            "lora_A.weight": (1, columns),
            "lora_B.weight": (0, rows),
            "lora_B.bias": (0, rows),
            "lora_embedding_A": (1, rows),
            "lora_embedding_B": (0, columns),
            "token_adapter.trainable_tokens_delta": (1, columns),
        }
        axis, size = wanted.get(kind, (0, rows))
        if len(info.shape) <= axis or info.shape[axis] != size:
            raise InputError(
                f"{self._where}: {name} is {list(info.shape)}, which is not an adapter of {bare} "
                f"{list(shape)} of {self._plan.parent.ref}; give `adapter_of`, what it was "
                "trained on"
            )

    def modules(self, tensors: "list[TensorPlan]") -> list[LoraModule]:
        """The modules that have a LoRA among the cut tensors."""
        found = []
        for tensor in tensors:
            for kind in (".lora_A.weight", ".lora_embedding_A"):
                if tensor.name.endswith(kind):
                    sliced = tensor.name.removeprefix(_AROUND).removesuffix(kind)
                    found.append(LoraModule(self._names[tensor.name], sliced, tensor.shape[0]))
        return found


def _is_text(module: str, prefix: str) -> bool:
    """Whether a module is the text model's, if that is named with this prefix."""
    return module.startswith(prefix) and is_known(f"{module.removeprefix(prefix)}.weight")


def _card(plan: Plan, adapter: Path, base_model: str | None) -> str:
    base = f"base_model: {base_model}\n" if base_model else ""
    name, parent = escape_markdown(plan.slice.name), escape_markdown(plan.parent.name)
    return f"""---
{base}library_name: peft
tags:
- lora
- matformer
- matformer-lab
---

# A LoRA of {parent}, cut to its slice {name}

Cut by matformer-lab {__version__} from the adapter {escape_markdown(adapter.resolve().name)}. On
the slice it is what the adapter is on {parent}: slicing the merged model gives the same weights.

```python
from peft import PeftModel

model = PeftModel.from_pretrained(sliced_model, DIR)
```
"""
