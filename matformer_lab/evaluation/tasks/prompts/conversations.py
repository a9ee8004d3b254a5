"""Prompts as conversations: the parent's chat template, applied by lm-eval's own code."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from lm_eval.models.huggingface import HFLM

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.evaluation.tasks.prompts.prompting import (
    DEFAULT_TEMPLATE,
    Prompting,
    chat_templates,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_USER: Final = {"role": "user", "content": "Question: which one?"}


class Conversations(HFLM):  # type: ignore[misc]
    """lm-eval's `HFLM` without a model: how it turns messages into a prompt, and encodes that.

    Args:
        tokenizer: The parent's.
        template: Its chat template, the text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        self.tokenizer = copy.copy(tokenizer)
        # lm-eval 0.4.13 looks a template up by its name, but then applies `default`.
        self.tokenizer.chat_template = template
        self.chat_template_args: dict[str, Any] = {}
        self.add_bos_token = True
        self.custom_prefix_token_id = None
        self.backend = "causal"

    @cached_property
    def takes_system_turns(self) -> bool:
        """Whether the template writes what the system says; lm-eval leaves it out otherwise."""
        system = {"role": "system", "content": "Answer in one word."}
        try:
            return self._written([system, _USER]) != self._written([_USER])
        except Exception:  # a template may fail in any way
            return False

    def check_bos(self) -> None:
        """Check that an encoded prompt has exactly one BOS, in front, whoever writes it.

        Raises:
            InputError: When it has none, or two, or the template cannot write a question at all.
        """
        try:
            written = self._written([_USER])
        except Exception as error:  # a template may fail in any way
            raise InputError(
                f"apply_chat_template: the parent's chat template fails ({one_line(error)})"
            ) from None
        bos = self.tokenizer.bos_token_id
        encoded = self.tok_encode(written)
        if bos is None or encoded[:1] != [bos] or encoded.count(bos) != 1:
            raise InputError(
                f"apply_chat_template: a prompt starts with {encoded[:2]} instead of exactly one "
                f"BOS ({bos}), so scores would be wrong; check the chat template, and the "
                "post-processor in tokenizer.json"
            )

    def left_out(self, name: str, tasks: Iterable[Any]) -> str | None:
        """What to tell of tasks with a description: lm-eval puts it into the system's turn.

        Args:
            name: What the recipe's task is called in the results.
            tasks: lm-eval's task objects.
        """
        if self.takes_system_turns or not any(task.get_config("description") for task in tasks):
            return None
        return (
            f"tasks: {name}: its description is left out of the prompts, as lm-eval does, because "
            "the chat template has no place for what the system says"
        )

    def _written(self, messages: list[dict[str, str]]) -> str:
        return str(
            self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )


def conversations(
    prompting: Prompting, tokenizer: PreTrainedTokenizerBase, parent: str
) -> Conversations:
    """What writes the prompts with a parent's chat template.

    Args:
        prompting: The recipe's, which asks for one.
        tokenizer: The parent's.
        parent: How errors name the parent.

    Raises:
        InputError: When the parent has no template, or none of that name; when the template has no
            place for the system's instruction; or when a prompt would have no BOS, or two.
    """
    asked = prompting.apply_chat_template
    templates = chat_templates(tokenizer)
    if not templates:
        raise InputError(
            f"apply_chat_template: {parent} has no chat template; leave the key out, or put the "
            "template of the model that this one was made from beside the weights "
            "(chat_template.jinja)"
        )
    name = DEFAULT_TEMPLATE if asked is True else asked
    if name not in templates:
        known = ", ".join(sorted(templates))
        raise InputError(f"apply_chat_template: {parent} has no template {name!r}; it has {known}")
    writer = Conversations(tokenizer, templates[name])
    writer.check_bos()
    if prompting.system_instruction is not None and not writer.takes_system_turns:
        raise InputError(
            f"system_instruction: the chat template of {parent} has no place for it, and lm-eval "
            "would leave it out; leave out the key"
        )
    return writer
