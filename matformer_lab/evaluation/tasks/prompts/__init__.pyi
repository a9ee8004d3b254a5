"""What a task asks: examples, chat templates, arguments of generation, and all of it as a hash."""

from .fewshot import check_fewshot as check_fewshot
from .fewshot import set_num_fewshot as set_num_fewshot
from .gen_kwargs import check_gen_kwargs as check_gen_kwargs
from .gen_kwargs import set_gen_kwargs as set_gen_kwargs
from .prompt_hash import hash_of_prompts as hash_of_prompts
from .prompting import Prompting as Prompting
