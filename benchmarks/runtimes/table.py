"""Write what was found into the table of verdicts: `python -m benchmarks.runtimes.table RESULTS`.

A finding that was tried gets the verdict, the day and how it was tried. One that was not keeps what
it has. Where what was found is not what the table said, a line says so.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

TABLE: Final = Path(__file__).parents[2] / "configs" / "runtimes.json"


def main(results: Path) -> None:
    """Update `configs/runtimes.json`."""
    table = json.loads(TABLE.read_text())
    tried = [row for row in json.loads(results.read_text())["results"] if row["cache"]]
    for runtime in table["runtimes"]:
        for finding in runtime["findings"]:
            rows = [row for row in tried if _is_about(row, runtime, finding)]
            if rows:
                _take_over(runtime["runtime"], finding, rows)
    TABLE.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n")


def _is_about(row: dict[str, Any], runtime: dict[str, Any], finding: dict[str, Any]) -> bool:
    if (row["runtime"], row["condition"]) != (runtime["runtime"], finding["condition"]):
        return False
    if row["version"] is None and row["runtime"] == "transformers":
        return False
    # There are two rows of transformers, of which one begins with 4.
    of_row, of_table = (str(one)[:1] for one in (row["version"], runtime["versions"]))
    return row["runtime"] != "transformers" or of_row == of_table


def _take_over(runtime: str, finding: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    outcomes = {row["outcome"] for row in rows}
    versions = sorted({row["version"] for row in rows if row["version"]})
    if outcomes != {finding["verdict"]}:
        cases = ", ".join(f"{row['case']}: {row['outcome']}" for row in rows)
        print(f"{runtime} ({finding['condition']}): table says {finding['verdict']}; {cases}")
        if len(outcomes) > 1:
            return
        finding["verdict"] = outcomes.pop()
    differences = [
        row["largest_difference"] for row in rows if row["largest_difference"] is not None
    ]
    figure = f"; log-probabilities off by up to {max(differences):.1g}" if differences else ""
    where = f" ({' and '.join(versions)})" if versions else ""
    count = f"{len(rows)} checkpoint{'s' * (len(rows) > 1)} of a random 35-layer parent"
    finding["how"] = f"run by benchmarks/runtimes{where}: {count}, fp32{figure}"
    finding["when"] = max(row["date"] for row in rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
