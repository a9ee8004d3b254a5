"""The gate's result as JUnit XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from matformer_lab.gate.result import Check, GateResult, points


def to_junit(result: GateResult) -> bytes:
    """The result as JUnit XML: one test case per check, one suite per task.

    A check that is undecided passes, and its output says so.
    """
    root = ET.Element("testsuites", name="matformer-lab gate")
    for task in dict.fromkeys(check.task for check in result.checks):
        checks = [check for check in result.checks if check.task == task]
        failed = [check for check in checks if check in result.failed]
        skipped = [check for check in checks if check not in (*failed, *result.compared)]
        suite = ET.SubElement(
            root,
            "testsuite",
            name=_xml(task),
            tests=str(len(checks)),
            failures=str(len(failed)),
            errors="0",
            skipped=str(len(skipped)),
        )
        for check in checks:
            case = ET.SubElement(
                suite, "testcase", classname=_xml(f"gate.{task}"), name=_xml(check.slice), time="0"
            )
            sentence = _sentence(check, result.max_drop)
            if check in failed:
                ET.SubElement(case, "failure", message=sentence, type=check.status).text = sentence
            elif check in skipped:
                ET.SubElement(case, "skipped", message=sentence)
            else:
                ET.SubElement(case, "system-out").text = sentence
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _sentence(check: Check, max_drop: float) -> str:
    if check.status == "missing":
        return "in the baseline but not in the sweep"
    if check.drop is None or check.low is None or check.high is None:
        return "in the sweep but not in the baseline"
    assert check.baseline is not None and check.now is not None
    return (
        f"{100 * check.baseline:.2f} -> {100 * check.now:.2f}, a change of {points(-check.drop)} "
        f"points ({points(-check.high)} to {points(-check.low)}); allowed drop {max_drop:g}"
    )


def _xml(text: Any) -> str:
    """The text with U+FFFD in place of characters that XML 1.0 cannot hold."""
    return "".join(
        char if char >= " " and char not in "\ufffe\uffff" else "\ufffd" for char in str(text)
    )
