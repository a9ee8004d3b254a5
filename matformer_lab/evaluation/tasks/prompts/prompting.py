"""How prompts are made: what a recipe says beyond the tasks, by the names of lm_eval's flags."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_TEMPLATE: Final = "default"
"""What the only template of a tokenizer is called, and the one of several that `true` means."""


@dataclass(frozen=True)
class Prompting:
    """How lm-eval makes prompts; each field is its flag of that name, with its default.

    Attributes:
        apply_chat_template: Whether prompts are turns of a conversation, written by the parent's
            chat template; a text is the name of one of several templates.
        system_instruction: A text before every prompt: the system's turn, where there are turns.
        fewshot_as_multiturn: Whether each example of a prompt has turns of its own; None: where
            there are turns at all, as `lm_eval run` has it.
        gen_kwargs: Arguments of generation, over those of a task's file.
    """

    apply_chat_template: bool | str = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def multiturn(self) -> bool:
        """`fewshot_as_multiturn`, with None resolved."""
        if self.fewshot_as_multiturn is None:
            return bool(self.apply_chat_template)
        return self.fewshot_as_multiturn

    @property
    def turns(self) -> str | None:
        """What scores depend on, in JSON: all but `gen_kwargs`; None for plain prompts."""
        if not self.apply_chat_template and self.system_instruction is None:
            return None
        said = {
            "apply_chat_template": self.apply_chat_template,
            "fewshot_as_multiturn": self.multiturn,
            "system_instruction": self.system_instruction,
        }
        return json.dumps(said, ensure_ascii=False)


def chat_templates(tokenizer: "PreTrainedTokenizerBase") -> dict[str, str]:
    """A tokenizer's chat templates by name; empty where it has none."""
    found: Any = tokenizer.chat_template
    if isinstance(found, dict):
        return dict(found)
    return {DEFAULT_TEMPLATE: found} if found else {}
