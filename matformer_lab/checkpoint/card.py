"""The model card of a written checkpoint."""

import re
from pathlib import Path
from typing import Any, Final

import yaml

from matformer_lab.common.errors import InputError
from matformer_lab.common.markdown import escape_markdown, markdown_table
from matformer_lab.common.strict_yaml import parse_yaml
from matformer_lab.common.untrusted import read_small
from matformer_lab.common.version import __version__
from matformer_lab.parent.links import path_inside
from matformer_lab.slicing.plan import Plan
from matformer_lab.slicing.tables import (
    LAYER_HEAD,
    RUNTIME_HEAD,
    layer_rows,
    runtime_rows,
    size_rows,
)

CARD_FILE: Final = "README.md"
_MAX_CARD_BYTES: Final = 1 << 20
_FRONT = re.compile(r"---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
"""A card's metadata: YAML between two lines of dashes, at its very start."""
_TAGS: Final = ["matformer", "mix-n-match", "gemma3n", "matformer-lab"]


def model_card(plan: Plan, base_model: str | None = None) -> str:
    """The card: Hub metadata, the slice's sizes and layers, how it was made and how to load it.

    Args:
        plan: What the checkpoint holds.
        base_model: The parent's Hub id; None: as the parent or its own card gives it, if at all.

    Returns:
        Markdown with YAML front matter.
    """
    parent_card = parent_card_metadata(plan.parent.folder)
    base = base_model or plan.parent.base_model or parent_card.get("base_model")
    metadata: dict[str, Any] = {
        **({"base_model": base} if base else {}),
        "license": parent_card.get("license", "gemma"),
        **{k: parent_card[k] for k in ("license_name", "license_link") if k in parent_card},
        "library_name": "transformers",
        "pipeline_tag": "text-generation" if plan.text_only else "image-text-to-text",
        "tags": _TAGS,
    }
    front = yaml.safe_dump(metadata, sort_keys=False, width=10**6).strip()
    name = escape_markdown(plan.slice.name)
    shown_base = escape_markdown(base if isinstance(base, str) else plan.parent.name)
    text_only = " --text-only" if plan.text_only and plan.parent.multimodal else ""
    return f"""---
{front}
---

# {name}: a slice of {shown_base}

Cut from {shown_base} by Mix-and-Match: the first *w* hidden units of each layer's FFN are
themselves a trained FFN, so this checkpoint was selected, not trained. Every tensor is a part of
the parent's, bit for bit.

{markdown_table(("", "value"), size_rows(plan))}

*Effective* parameters are the text model's without `embed_tokens` and `embed_tokens_per_layer`.

## The slice

{markdown_table(LAYER_HEAD, layer_rows(plan))}

## How it was made

matformer-lab {__version__}, from a parent with fingerprint `{plan.parent.fingerprint[:16]}`
(`matformer_lab.json` in this folder has the widths and a digest of every tensor):

```
matformer-lab slice PARENT --slice SLICE --out DIR{text_only}
matformer-lab verify DIR --parent PARENT
```

## How to load it

```python
{_loading(plan)}
```

{markdown_table(RUNTIME_HEAD, runtime_rows(plan))}
"""


def parent_card_metadata(folder: Path | None) -> dict[str, Any]:
    """The metadata in the parent's own card, as far as it is strings or lists of strings, on one
    line each and without characters that cannot be seen.

    Args:
        folder: The parent's folder; None if it is not local.

    Returns:
        Empty if there is no card, or none that can be read: a card is never required.
    """
    if folder is None:
        return {}
    try:
        text = read_small(path_inside(folder, CARD_FILE, str(folder)), _MAX_CARD_BYTES).decode()
        front = _FRONT.match(text)
        metadata = parse_yaml(front[1].encode(), CARD_FILE) if front else None
    except (InputError, ValueError):
        return {}
    if not isinstance(metadata, dict):
        return {}
    return {
        key: [*map(_visible, value)] if isinstance(value, list) else _visible(value)
        for key, value in metadata.items()
        if isinstance(key, str) and _is_text(value)
    }


def _is_text(value: object) -> bool:
    items = value if isinstance(value, list) else [value]
    return all(isinstance(item, str) for item in items)


def _visible(text: str) -> str:
    """What a stranger wrote, as it goes into our card: on one line, without what cannot be seen."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def _loading(plan: Plan) -> str:
    if plan.text_only:
        model = "Gemma3nForCausalLM"
        return f"""from transformers import AutoTokenizer, {model}

model = {model}.from_pretrained(DIR, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(DIR)"""
    return """from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained(DIR, dtype="auto")  # needs timm
processor = AutoProcessor.from_pretrained(DIR)"""
