"""Which runtimes load a slice, and which load it but compute wrong logits.

The verdicts are data, `configs/runtimes.json`: for each runtime a list of findings, of which the
first counts whose condition the checkpoint meets. `benchmarks/runtimes` runs the runtimes on slices
of a small random parent and writes what it found there. The dangerous verdict is "silently wrong":
the runtime loads the slice and says nothing.
"""

from dataclasses import dataclass
from functools import cache
from os import PathLike
from typing import Literal

from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.paths import StrPath
from matformer_lab.common.shipped import shipped_folder
from matformer_lab.parent.opening import open_checkpoint
from matformer_lab.parent.parent import Parent
from matformer_lab.parent.quantised import QuantisedCheckpoint
from matformer_lab.slicing.conditions import (
    Condition,
    Facts,
    facts_of_folder,
    facts_of_plan,
    facts_of_quantised,
    holds,
)
from matformer_lab.slicing.plan import Plan

Verdict = Literal["ok", "refuses", "silently wrong", "untested"]
"""ok: loads it and computes the same logits, under the condition in `why` if there is one.
refuses: does not load it. silently wrong: loads it and computes other logits."""


@dataclass(frozen=True)
class Finding:
    """What is known of a runtime and checkpoints that meet a condition.

    Attributes:
        runtime: The runtime's name.
        versions: The version, or range of versions, that this was found on.
        condition: Which checkpoints it is about.
        verdict: ok, refuses, silently wrong or untested.
        why: The reason, or what "ok" depends on. `{missing_kv}`, `{missing_rope}` and
            `{quantised}` are those of a checkpoint.
        remedy: What to do, where something can be done.
        by_slicing: Whether that is to slice the checkpoint. A quantised one cannot be sliced.
        how: How it was established.
        when: The day on which it was, `YYYY-MM-DD`.
    """

    runtime: str
    versions: str
    condition: Condition
    verdict: Verdict
    why: str
    remedy: str
    by_slicing: bool
    how: str
    when: str


@dataclass(frozen=True)
class RuntimeVerdict:
    """What one runtime does with a checkpoint.

    Attributes:
        runtime: The runtime's name.
        version: The version, or range of versions, that the verdict was found on.
        verdict: ok, refuses, silently wrong or untested.
        why: The reason, or a condition; empty if "ok" says it all.
        remedy: What to do; empty if nothing can be done, or need be.
        condition: By which condition it was judged (`slicing.conditions`).
        how: How the verdict was established.
        when: The day on which it was, `YYYY-MM-DD`.

    Examples:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> plan = ml.make_plan(parent, ml.resolve_slice("e2b", parent))
        >>> first = ml.runtime_verdicts(plan)[0]
        >>> first.runtime, first.verdict, first.why, first.condition
        ('transformers', 'ok', '', 'always')
    """

    runtime: str
    version: str
    verdict: Verdict
    why: str = ""
    remedy: str = ""
    condition: str = "always"
    how: str = ""
    when: str = ""

    @property
    def explained(self) -> str:
        """The reason and what to do, in one line."""
        return "; ".join(part for part in (self.why, self.remedy) if part)


@cache
def findings() -> tuple[Finding, ...]:
    """All that is known, in the order in which it counts."""
    path = shipped_folder("configs") / "runtimes.json"
    return tuple(
        Finding(
            runtime=one["runtime"],
            versions=one["versions"],
            condition=Condition(row["condition"]),
            verdict=row["verdict"],
            why=row["why"],
            remedy=row["do"],
            by_slicing=row.get("by_slicing", False),
            how=row["how"],
            when=row["when"],
        )
        for one in strict_json(path.read_bytes(), str(path))["runtimes"]
        for row in one["findings"]
    )


def runtime_verdicts(
    checkpoint: Plan | Parent | QuantisedCheckpoint | StrPath,
) -> tuple[RuntimeVerdict, ...]:
    """What each runtime does with a checkpoint.

    Args:
        checkpoint: A plan, whose child is judged, in its form (full or text-only); or a checkpoint
            (opened, or what `open_parent` accepts), which is judged as it lies there, quantised or
            not.

    Examples:
        >>> import matformer_lab as ml
        >>> verdicts = ml.runtime_verdicts(ml.make_plan("tiny", "e2b"))
        >>> [one.runtime for one in verdicts if one.verdict == "silently wrong"]
        ['vLLM']
    """
    if isinstance(checkpoint, str | PathLike):
        checkpoint = open_checkpoint(checkpoint)
    if isinstance(checkpoint, Plan):
        facts = facts_of_plan(checkpoint)
    elif isinstance(checkpoint, QuantisedCheckpoint):
        facts = facts_of_quantised(checkpoint)
    else:
        facts = facts_of_folder(checkpoint)
    first: dict[tuple[str, str], RuntimeVerdict] = {}
    for finding in findings():
        key = (finding.runtime, finding.versions)
        if key not in first and holds(finding.condition, facts):
            first[key] = _verdict(finding, facts)
    return tuple(first.values())


def _verdict(finding: Finding, facts: Facts) -> RuntimeVerdict:
    why = finding.why
    if "{" in why:
        why = why.format(
            missing_kv=facts.missing_kv,
            missing_rope=facts.missing_rope,
            quantised=facts.quantised,
        )
    return RuntimeVerdict(
        runtime=finding.runtime,
        version=finding.versions,
        verdict=finding.verdict,
        why=why,
        remedy="" if facts.quantised and finding.by_slicing else finding.remedy,
        condition=finding.condition.value,
        how=finding.how,
        when=finding.when,
    )
