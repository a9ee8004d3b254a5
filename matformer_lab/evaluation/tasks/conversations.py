"""Prompts as conversations: the parent's chat template, applied by lm-eval's own code."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any, Final

import jinja2
from lm_eval.models.huggingface import HFLM

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.evaluation.tasks.prompting import Prompting

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DEFAULT: Final = "default"
"""What the only template of a tokenizer is called, and the one of several that `true` means."""
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
        self.chat_template_args = {}
        self.add_bos_token = True
        self.custom_prefix_token_id = None
        self.backend = "causal"

    @property
    def takes_system_turns(self) -> bool:
        """Whether the template writes what the system says; lm-eval leaves it out otherwise."""
        system = {"role": "system", "content": "Answer in one word."}
        try:
            return self._written([system, _USER]) != self._written([_USER])
        except jinja2.TemplateError:
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

    def _written(self, messages: list[dict[str, str]]) -> str:
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return text


def conversations(
    prompting: Prompting, tokenizer: PreTrainedTokenizerBase, parent: str
) -> Conversations | None:
    """What writes the prompts, where a recipe asks for a chat template.

    Args:
        prompting: The recipe's.
        tokenizer: The parent's.
        parent: How errors name the parent.

    Raises:
        InputError: When the parent has no template, or none of that name; when the template has no
            place for the system's instruction; or when a prompt would have no BOS, or two.
    """
    asked = prompting.apply_chat_template
    if not asked:
        return None
    templates = chat_templates(tokenizer)
    if not templates:
        raise InputError(
            f"apply_chat_template: {parent} has no chat template; leave the key out, or put the "
            "template of the model that this one was made from beside the weights "
            "(chat_template.jinja)"
        )
    name = _DEFAULT if asked is True else asked
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


def chat_templates(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """A tokenizer's chat templates by name; the only one it has is `default`."""
    found: Any = tokenizer.chat_template
    return dict(found) if isinstance(found, dict) else {_DEFAULT: found} if found else {}


def warn_of_unused_template(
    prompting: Prompting, tokenizer: PreTrainedTokenizerBase, parent: str
) -> None:
    """Tell of a parent that has a chat template and is scored without it."""
    if not prompting.apply_chat_template and chat_templates(tokenizer):
        warnings.warn(
            f"{parent} has a chat template and is scored without it; apply_chat_template in the "
            "recipe says which is meant (true or false)",
            stacklevel=2,
        )


def unwritten_description(name: str, tasks: dict[str, Any], writer: Conversations) -> str | None:
    """What to tell of tasks that open with a description, which lm-eval gives the system to say.

    Args:
        name: How the task is called in the results.
        tasks: lm-eval's task objects by name.
        writer: Writes the prompts.
    """
    if writer.takes_system_turns or not any(_described(task) for task in tasks.values()):
        return None
    return (
        f"tasks: {name}: its description is left out of the prompts, as lm-eval does, because the "
        "chat template has no place for what the system says"
    )


def _described(task: Any) -> bool:
    return bool(task.get_config("description"))
