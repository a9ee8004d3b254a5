"""The model card of a written checkpoint."""

import re
import shlex
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_yaml import parse_yaml
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.common.markdown import escape_markdown, markdown_table
from matformer_lab.common.version import __version__
from matformer_lab.parent.weights.links import path_inside
from matformer_lab.slicing.plan import Plan
from matformer_lab.slicing.tables import (
    LAYER_HEAD,
    RUNTIME_HEAD,
    layer_rows,
    runtime_rows,
    size_rows,
)

CARD_FILE: Final = "README.md"

NOTICE_FILE: Final = "NOTICE"
PICTURE_FILE: Final = "frontier.png"
"""What a push puts beside a checkpoint's own files, as the card and its licence need it."""

MAX_CARD_BYTES: Final = 1 << 20
_FRONT = re.compile(r"---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
"""A card's metadata: YAML between two lines of dashes, at its very start."""
_TAGS: Final = ["matformer", "mix-n-match", "gemma3n", "matformer-lab"]
_GATE: Final = "extra_gated_"
"""How the keys begin by which a card asks readers to accept a licence before they download."""

LOADED_FROM: Final = "from_pretrained(DIR"
"""How the card's code names the checkpoint, until it is somewhere on the Hub."""

GEMMA_NOTICE: Final = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "ai.google.dev/gemma/terms"
)
"""What the Gemma Terms of Use (section 3.1) want beside every copy."""


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
    licence = parent_card.get("license", "gemma")
    metadata: dict[str, Any] = {
        # The Hub knows finetune, adapter, merge and quantized, and no word for a selection. It
        # takes what is unlabelled for a finetune, or guesses from the files.
        **({"base_model": base, "base_model_relation": "finetune"} if base else {}),
        "license": licence,
        **{k: parent_card[k] for k in ("license_name", "license_link") if k in parent_card},
        **{k: v for k, v in parent_card.items() if k.startswith(_GATE)},
        "library_name": "transformers",
        "pipeline_tag": "text-generation" if plan.text_only else "image-text-to-text",
        "tags": _TAGS,
    }
    front = yaml.safe_dump(metadata, sort_keys=False, width=10**6).strip()
    name = escape_markdown(plan.slice.name)
    shown_base = escape_markdown(base if isinstance(base, str) else plan.parent.name)
    return f"""---
{front}
---

# {name}: a slice of {shown_base}

Cut from {shown_base} by Mix-and-Match: the first *w* hidden units of each layer's FFN are
themselves a trained FFN, so this checkpoint was selected, not trained. Every tensor is a part of
the parent's, bit for bit.{_filled(plan)}

{markdown_table(("", "value"), size_rows(plan))}

*Effective* parameters are the text model's without `embed_tokens` and `embed_tokens_per_layer`.

## The slice

{markdown_table(LAYER_HEAD, layer_rows(plan))}

## How it was made

matformer-lab {__version__}, from a parent with fingerprint `{plan.parent.fingerprint[:16]}`
(`matformer_lab.json` in this folder has the widths and a digest of every tensor):

```
{_commands(plan)}
```

## How to load it

```python
{_loading(plan)}
```

{markdown_table(RUNTIME_HEAD, runtime_rows(plan))}
{_licence_notice(licence)}"""


def _filled(plan: Plan) -> str:
    """What the child has that the parent lacks, as a sentence; or nothing."""
    if not plan.filling:
        return ""
    return (
        " What the parent lacks and some runtimes want was filled in, which changes no logits: "
        f"{escape_markdown(str(plan.filling))}."
    )


def _commands(plan: Plan) -> str:
    """The shell commands that write this checkpoint and verify it."""
    slice_, parent = plan.slice, plan.parent
    name = slice_.slug
    ref = shlex.quote(f"{parent.name}@{parent.revision}" if parent.revision else parent.name)
    if not ref.isprintable():
        ref = "PARENT"  # a terminal would obey it when it is pasted
    lines = []
    if slice_.published:
        chosen = slice_.name
    else:
        chosen = f"{name}.yaml"
        written = {"name": slice_.name, "widths": [*slice_.widths], "skip": [*slice_.skipped]}
        text = yaml.safe_dump(written, sort_keys=False, default_flow_style=None, width=10**6)
        lines = [f"cat > {chosen} <<'END'", *text.splitlines(), "END"]
    options = " --text-only" if plan.text_only and parent.multimodal else ""
    if not plan.filling.asked:
        options += " --as-is"
    if other := plan.filling.kv_from:
        given = f"{other.name}@{other.revision}" if other.revision else other.name
        options += f" --kv-from {shlex.quote(given)}" if given.isprintable() else ""
    return "\n".join(
        [
            *lines,
            f"matformer-lab slice {ref} --slice {chosen} --out {name}{options}",
            f"matformer-lab verify {name} --parent {ref}",
        ]
    )


def _licence_notice(licence: object) -> str:
    if licence != "gemma":
        return ""
    return f"""
## Licence

{GEMMA_NOTICE}. This checkpoint is a modification: parts of the base model's tensors, as said above.
"""


class CardParts(NamedTuple):
    """A card, taken apart.

    Attributes:
        front: The YAML text of its metadata; None if it has none.
        body: All that follows.
    """

    front: str | None
    body: str


def card_parts(text: str) -> CardParts:
    """Take a card apart into its metadata and what is read by people."""
    front = _FRONT.match(text)
    return CardParts(front[1], text[front.end() :]) if front else CardParts(None, text)


def parent_card_metadata(folder: Path | None) -> dict[str, Any]:
    """The metadata in the parent's own card, as far as it is strings or lists of strings, on one
    line each and without characters that cannot be seen; `extra_gated_fields` and the like too.

    Args:
        folder: The parent's folder; None if it is not local.

    Returns:
        Empty if there is no card, or none that can be read: a card is never required.
    """
    if folder is None:
        return {}
    try:
        text = read_small(path_inside(folder, CARD_FILE, str(folder)), MAX_CARD_BYTES).decode()
        front = card_parts(text).front
        metadata = parse_yaml(front.encode(), CARD_FILE) if front is not None else None
    except (InputError, ValueError):
        return {}
    if not isinstance(metadata, dict):
        return {}
    return {
        _visible(key): _all_visible(value)
        for key, value in metadata.items()
        if isinstance(key, str) and (_is_text(value) or key.startswith(_GATE))
    }


def _is_text(value: object) -> bool:
    items = value if isinstance(value, list) else [value]
    return all(isinstance(item, str) for item in items)


def _visible(text: str) -> str:
    """What a stranger wrote, as it goes into our card: on one line, without what cannot be seen."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def _all_visible(value: Any) -> Any:
    """`_visible` for every text in lists and mappings; the strict reader bounds their depth."""
    if isinstance(value, str):
        return _visible(value)
    if isinstance(value, list):
        return [_all_visible(one) for one in value]
    if isinstance(value, dict):
        return {_all_visible(key): _all_visible(one) for key, one in value.items()}
    return value


def _loading(plan: Plan) -> str:
    if plan.text_only:
        model = "Gemma3nForCausalLM"
        return f"""from transformers import AutoTokenizer, {model}

model = {model}.from_pretrained(DIR, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(DIR)"""
    return """from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained(DIR, dtype="auto")  # needs timm
processor = AutoProcessor.from_pretrained(DIR)"""
