"""A finished search in memory: what was found, how sure it is, and what else the surrogate says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath, to_path
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.results.files import SEARCH_HTML, SLICES_YAML
from matformer_lab.results.read import read_sweep
from matformer_lab.results.sweep_results import SweepResults
from matformer_lab.search.method.budget import Budget, make_budgets
from matformer_lab.search.method.costs import CostTable
from matformer_lab.search.method.refine import best_guess
from matformer_lab.search.method.solve import check_budgets
from matformer_lab.search.method.space import Space, slice_of
from matformer_lab.search.method.surrogate import fit
from matformer_lab.search.prepared import PARENT_NAME
from matformer_lab.search.record import SearchRecord, read_record
from matformer_lab.slicing.slice import Slice
from matformer_lab.statistics.panel import Panel
from matformer_lab.statistics.study import AVERAGE
from matformer_lab.sweep.search_block import BudgetEntry

if TYPE_CHECKING:
    import pandas as pd


class Proof(NamedTuple):
    """A found slice against another one, on items that the search has not seen.

    Attributes:
        budget: The found slice's name.
        kind: What it is compared with: `published`, `random` or `parent`.
        other: The other slice's name.
        score: Of the found slice, in points, averaged over the tasks.
        other_score: Of the other one.
        difference: How much better the found one is, in points.
        low: Lower end of the simultaneous interval of the difference.
        high: Its upper end.
    """

    budget: str
    kind: str
    other: str
    score: float
    other_score: float
    difference: float
    low: float
    high: float


class Guess(NamedTuple):
    """What the surrogate says about a budget that was not searched.

    Attributes:
        slice: The best slice by it.
        effective: Its effective parameters.
        predicted: Its objective.
    """

    slice: Slice
    effective: int
    predicted: float


@dataclass(frozen=True)
class SearchResult:
    """A finished search, as `run_search` and `read_search` return it.

    Attributes:
        folder: The search's folder, which is that of the proof's sweep too.
        record: All of search.json.
    """

    folder: Path
    record: SearchRecord

    @cached_property
    def proof(self) -> SweepResults:
        """The sweep over the items that the search has not seen."""
        return read_sweep(self.folder)

    @property
    def panel(self) -> Panel:
        """The average of the tasks, or the only task."""
        panels = {panel.name: panel for panel in self.proof.panels}
        return panels.get(AVERAGE) or panels[self.record.tasks[0]]

    @property
    def slices_file(self) -> Path:
        """The file of the found slices, which `slice`, `sweep`, `plan` and `push` take."""
        return self.folder / SLICES_YAML

    @property
    def page(self) -> Path:
        """The page."""
        return self.folder / SEARCH_HTML

    def proofs(self) -> Iterator[Proof]:
        """Every comparison of a found slice that the proof was made for."""
        panel = self.panel
        for budget in self.record.budgets:
            name = budget.same_as or budget.name
            for kind, others in (
                ("published", budget.published),
                ("random", budget.random),
                ("parent", (PARENT_NAME,)),
            ):
                for other in others:
                    found = panel.compare(name, other)
                    yield Proof(
                        budget=budget.name,
                        kind=kind,
                        other=other,
                        score=100 * float(panel.values[panel.index(name)]),
                        other_score=100 * float(panel.values[panel.index(other)]),
                        difference=100 * found.difference,
                        low=100 * found.low,
                        high=100 * found.high,
                    )

    def found(self) -> pd.DataFrame:
        """The found slices: a row for each budget, with its best published rival."""
        import pandas as pd

        panel, proofs = self.panel, list(self.proofs())
        rows = []
        for budget in self.record.budgets:
            own = [each for each in proofs if each.budget == budget.name]
            rivals = [each for each in own if each.kind == "published"]
            rival = max(rivals, key=lambda each: each.other_score, default=None)
            (parent,) = (each for each in own if each.kind == "parent")
            rows.append(
                {
                    "slice": budget.same_as or budget.name,
                    "budget": ", ".join(f"{each.kind} {each.written}" for each in budget.limits),
                    "effective": budget.effective,
                    "objective": budget.measured,
                    "score": 100 * float(panel.values[panel.index(budget.same_as or budget.name)]),
                    "published": rival and rival.other,
                    "difference": rival and rival.difference,
                    "low": rival and rival.low,
                    "high": rival and rival.high,
                    "below_parent": -parent.difference,
                }
            )
        return pd.DataFrame(rows)

    def scan(self) -> pd.DataFrame:
        """The scan: what each width of each layer costs or gains against the base, paired."""
        import pandas as pd

        return pd.DataFrame([each.model_dump() for each in self.record.scan])

    def candidates(self) -> pd.DataFrame:
        """Everything the surrogate proposed: predicted against measured."""
        import pandas as pd

        rows = [each.model_dump() for each in self.record.candidates]
        return pd.DataFrame(rows, columns=["budget", "pattern", "predicted", "measured", "round"])

    def what_if(
        self,
        *,
        max_params: int | str | None = None,
        max_bytes: int | str | None = None,
        max_accelerator_bytes: int | str | None = None,
        max_flops: int | str | None = None,
        context: int = 4096,
        text_only: bool = False,
    ) -> Guess:
        """The best slice for another budget by the surrogate: at once, without a model.

        Args:
            max_params: Effective parameters, such as `3.0B`.
            max_bytes: Bytes of the checkpoint.
            max_accelerator_bytes: Bytes of the weights on the accelerator and of the K/V cache.
            max_flops: Operations a token.
            context: Tokens in the K/V cache.
            text_only: Whether the bytes are those of the text-only checkpoint.

        Raises:
            InputError: When no slice is within the budget, or the parent is not there any more.
        """
        entry = BudgetEntry(
            max_params=max_params,
            max_bytes=max_bytes,
            max_accelerator_bytes=max_accelerator_bytes,
            max_flops=max_flops,
            context=context,
            text_only=text_only,
        )
        space = self._space
        (budget,) = make_budgets([entry], self._costs)
        check_budgets(space, [budget])
        values = {each.pattern: each.objective for each in self.record.measured}
        model = fit(space, values)
        (pattern,) = best_guess(space, [budget], model, values)
        name = budget.name.replace("best-", "guess-")
        return Guess(slice_of(pattern, name), budget.parameters.of(pattern), model.predict(pattern))

    def budget(self, name: str) -> Budget:
        """A budget of the search, with its costs.

        Raises:
            InputError: There is none of this name.
        """
        known = []
        for entry in self.record.settings["search"]["budgets"]:
            (budget,) = make_budgets([BudgetEntry.model_validate(entry)], self._costs)
            if budget.name == name:
                return budget
            known.append(budget.name)
        raise InputError(f"no budget named {name!r}; this search has {', '.join(known)}")

    @cached_property
    def _parent(self) -> Parent:
        parent = open_parent(self.record.parent)
        if parent.fingerprint != self.record.fingerprint:
            raise InputError(
                f"{self.record.parent}: is not the parent of this search any more; search again"
            )
        return parent

    @cached_property
    def _space(self) -> Space:
        sets = self.record.skip_sets
        return Space(
            self._parent.text,
            self.record.choices,
            None if sets is None else tuple(frozenset(each) for each in sets),
            self.record.uniform,
        )

    @cached_property
    def _costs(self) -> CostTable:
        return CostTable(self._parent, self._space)


def read_search(folder: StrPath) -> SearchResult:
    """A finished search, from its folder.

    Args:
        folder: What `run_search` wrote.

    Raises:
        InputError: When it does not hold a finished search.
    """
    path = to_path(folder)
    return SearchResult(path, read_record(path))
