"""Made-up outcomes for the tests of the statistics."""

import numpy as np
from hypothesis import strategies as st

from matformer_lab.statistics.outcomes import Floats, Outcomes, make_outcomes
from matformer_lab.statistics.panel import Panel
from matformer_lab.statistics.study import make_study


@st.composite
def outcomes(draw: st.DrawFn, slices: int | None = None, macro: bool | None = None) -> Outcomes:
    count = slices or draw(st.integers(2, 5))
    items = draw(st.integers(2, 24))
    rows = st.lists(st.sampled_from([0.0, 1.0]), min_size=items, max_size=items)
    scores = np.array(draw(st.lists(rows, min_size=count, max_size=count)))
    subjects = draw(st.lists(st.sampled_from("abc"), min_size=items, max_size=items))
    by_subject = draw(st.booleans()) if macro is None else macro
    return make_outcomes([f"s{k}" for k in range(count)], scores, subjects, macro=by_subject)


def world(
    rng: np.random.Generator, skills: list[float], items: int, private: float = 0.35
) -> Floats:
    """0/1 outcomes of slices that share the difficulty of items."""
    ease = rng.logistic(1.0, 1.6, items)
    noise = rng.logistic(0, private, (len(skills), items))
    return (np.array(skills)[:, None] + ease + noise > 0).astype(float)


def panel_of(table: Floats, seed: int = 0, replicates: int = 1000) -> Panel:
    names = [f"s{k}" for k in range(len(table))]
    return make_study({"t": make_outcomes(names, table)}, replicates=replicates, seed=seed).panels[
        "t"
    ]
