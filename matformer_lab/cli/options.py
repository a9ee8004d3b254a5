"""Options that several commands have."""

from pathlib import Path
from typing import Final

import click

DATASETS: Final = click.option(
    "--datasets",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder with local datasets, laid out by dataset id.",
)
TRUST_TASKS: Final = click.option(
    "--trust-tasks",
    is_flag=True,
    help="Let the files of the recipe's task_folders run their own code.",
)
CONFIRM_RUN_UNSAFE_CODE: Final = click.option(
    "--confirm-run-unsafe-code",
    is_flag=True,
    help="Run code that the model writes (HumanEval, MBPP), as lm_eval's option of that name.",
)
EXECUTOR: Final = click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Score here, or on the Ray cluster at RAY_ADDRESS (if unset: this machine's).",
)
CPUS_PER_WORKER: Final = click.option(
    "--cpus-per-worker",
    type=click.IntRange(1),
    metavar="N",
    show_default="1 with a GPU, else all of the smallest node",
    help="CPUs of a Ray worker.",
)
WORKERS: Final = click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    show_default="by cores, memory and work",
    help="Processes on this machine that score a small parent, with a CPU thread each.",
)
