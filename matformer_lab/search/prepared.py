"""A search opened and checked: everything that it needs except the weights. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.agreement import AgreementText
from matformer_lab.evaluation.tasks.loading import LoadedTask
from matformer_lab.evaluation.tasks.names import check_names
from matformer_lab.evaluation.tasks.split import Split
from matformer_lab.evaluation.tasks.task_files import read_task_folders
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.search.method.budget import Budget, make_budgets
from matformer_lab.search.method.costs import CostTable
from matformer_lab.search.method.refine import target_size
from matformer_lab.search.method.runtimes import for_runtimes
from matformer_lab.search.method.solve import check_budgets
from matformer_lab.search.method.space import Space, entry_of, make_space, slice_of
from matformer_lab.slicing.notation.catalog import PUBLISHED, resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import SizedPlan, sizes_of
from matformer_lab.slicing.slice import Slice
from matformer_lab.sweep.jobs import Prepared, prepare, recipe_tasks
from matformer_lab.sweep.recipe import Recipe
from matformer_lab.sweep.search_block import SearchBlock

SETS: Final = 3
"""Calibration sets: one for all slices, two more for the best."""
PARENT_NAME: Final = "parent"
"""The name of the whole parent in the proof."""
_ALIKE: Final = 0.02
"""Published slices this near in size to the largest that fits a budget are compared too."""


@dataclass(frozen=True)
class PreparedSearch:
    """A search, ready to run.

    Attributes:
        recipe: As the user wrote it.
        block: Its `search` block.
        parent: Opened.
        space: What may be chosen.
        budgets: From small to large.
        sets: The recipe with each calibration set as its one task.
        proof: The tasks with the items kept out of the search, loaded.
        compared: The slices that the user wants compared, by the budget whose size they have.
    """

    recipe: Recipe
    block: SearchBlock
    parent: Parent
    space: Space
    budgets: tuple[Budget, ...]
    sets: tuple[Prepared, ...]
    proof: tuple[LoadedTask, ...]
    compared: Mapping[str, tuple[Slice, ...]]

    @property
    def widest(self) -> Prepared:
        """The first calibration set, to score the slice that contains all others on."""
        plan = make_plan(self.parent, slice_of(self.space.full, "widest"))
        return replace(self.sets[0], sized=(SizedPlan(plan, sizes_of(plan)),))

    def proof_recipe(self, found: Mapping[str, Slice], drawn: Sequence[Slice]) -> Recipe:
        """The sweep that proves the found slices, on items that the search has not seen."""
        rivals = {slice_.name: slice_ for each in self.compared.values() for slice_ in each}
        entries = [
            {"name": PARENT_NAME, "widths": "full"},
            *(entry_of(slice_) for slice_ in found.values()),
            *(name if slice_.published else entry_of(slice_) for name, slice_ in rivals.items()),
            *(entry_of(slice_) for slice_ in drawn),
        ]
        recipe = _part(self.recipe, self.block, "proof")
        return recipe.model_copy(update={"slices": tuple(entries)})


def prepare_search(recipe: Recipe, *, device: str | None = None) -> PreparedSearch:
    """Open and check everything that a search names.

    Args:
        recipe: With a `search` block.
        device: Where scores are computed; None: the recipe's, on this machine.

    Raises:
        InputError: When anything is missing or does not fit: a task, a budget that no slice meets,
            too few items to split.
    """
    block = recipe.search
    if block is None:
        raise InputError(
            f"{recipe.where}: has no `search` block and no budget is given, such as `max_params` "
            "3.0B"
        )
    own = read_task_folders(recipe.task_folder_paths)
    check_names((task.name for task in recipe.tasks), own)
    parent = open_parent(recipe.parent_ref)
    space = make_space(parent.text, block.widths, block.skip)
    space = for_runtimes(parent, space, block.runtimes)
    budgets = make_budgets(block.budgets, CostTable(parent, space))
    check_budgets(space, budgets, runtimes=block.runtimes)
    budgets = tuple(sorted(budgets, key=lambda budget: target_size(space, budget)))
    compared = _compared(recipe, parent, budgets)
    first = _part(recipe, block, 0)
    prepared = prepare(first, device=device)
    others = [_part(recipe, block, part) for part in range(1, SETS)]
    proof = _part(recipe, block, "proof")
    return PreparedSearch(
        recipe=recipe,
        block=block,
        parent=parent,
        space=space,
        budgets=budgets,
        sets=(
            prepared,
            *(
                replace(prepared, recipe=each, tasks=recipe_tasks(each, parent, prepared.tokenizer))
                for each in others
            ),
        ),
        proof=recipe_tasks(proof, parent, prepared.tokenizer),
        compared=compared,
    )


def _part(recipe: Recipe, block: SearchBlock, part: int | Literal["proof"]) -> Recipe:
    """The recipe of one part of the items: a calibration set, or the proof."""
    text = None
    if block.calibration.text is not None:
        text = AgreementText(text=block.calibration.text, tokens=block.calibration.tokens)
    is_proof = part == "proof"
    return recipe.model_copy(
        update={
            "slices": ("full",),
            "split": Split(
                part=part,
                calibration=block.calibration.items,
                sets=SETS,
                proof=block.proof,
                seed=block.seed,
            ),
            "search": None,
            "agreement": text or (recipe.agreement if is_proof else None),
            "scorer": recipe.scorer if is_proof else "prefix",
        }
    )


def _compared(
    recipe: Recipe, parent: Parent, budgets: Sequence[Budget]
) -> dict[str, tuple[Slice, ...]]:
    """The slices to compare, of the recipe's: for each budget the largest that it admits."""
    try:
        slices = resolve_slices(recipe.slices, parent, recipe.base)
    except InputError as error:
        if recipe.slices == (PUBLISHED,):
            return {budget.name: () for budget in budgets}  # another kind of parent
        raise InputError(f"{recipe.where}: {error}") from None
    others = [
        slice_ for slice_ in slices
        if slice_.skipped or slice_.widths != parent.text.intermediate_size
    ]  # fmt: skip
    sizes = {slice_.name: sizes_of(make_plan(parent, slice_)).effective for slice_ in others}
    found = {}
    for budget in budgets:
        fitting = [slice_ for slice_ in others if budget.admits(parent, slice_)]
        largest = max((sizes[slice_.name] for slice_ in fitting), default=0)
        found[budget.name] = tuple(
            slice_ for slice_ in fitting if sizes[slice_.name] >= (1 - _ALIKE) * largest
        )
    return found
