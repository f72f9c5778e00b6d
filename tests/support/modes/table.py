"""The table of ways of running, made by running the tests whose marks are its rows.

    PYTHONPATH=tests python -m support.modes.table            # prints it in Markdown
    PYTHONPATH=tests python -m support.modes.table --json     # the same as data, with the tests' names

A row is the name in a test's `@pytest.mark.mode(name)`, a cell is what became of all tests of this name on a host: the
`rig` of their parameters, or the host that `host=` says if they take none. Nothing is said of a host by hand.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2] / "attachment" / "modes"
HOSTS = ("CogVideoX", "Wan")


class Table:
    """A plugin of pytest that collects the outcomes of the tests that have the mark."""

    def __init__(self):
        self.marks: dict[str, tuple[str, str, bool]] = {}
        self.outcomes: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.tests: dict[str, set[str]] = defaultdict(set)

    def pytest_collection_modifyitems(self, items) -> None:
        for item in items:
            mark = item.get_closest_marker("mode")
            rig = getattr(item, "callspec", None) and item.callspec.params.get("rig")
            if mark is not None:
                host = rig.name if rig is not None else mark.kwargs["host"]
                self.marks[item.nodeid] = (mark.args[0], host, mark.kwargs.get("refused", False))
                self.tests[mark.args[0]].add(f"{item.path.name}::{item.originalname}")

    def pytest_runtest_logreport(self, report) -> None:
        if report.nodeid not in self.marks or (report.when != "call" and report.passed):
            return
        name, host, refused = self.marks[report.nodeid]
        if report.skipped:
            reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
            outcome = f"not run: {reason}"
        else:
            outcome = ("refused, with an error" if refused else "works") if report.passed else "FAILS"
        self.outcomes[name, host].append(outcome)

    def rows(self) -> list[dict[str, str]]:
        """One a way of running: "mode", a host each, "tests"."""
        return [
            {"mode": name, **{host: self._cell(name, host) for host in HOSTS}, "tests": ", ".join(sorted(tests))}
            for name, tests in self.tests.items()
        ]

    def _cell(self, name: str, host: str) -> str:
        outcomes = sorted(set(self.outcomes.get((name, host), ())))
        if "FAILS" in outcomes:
            return "FAILS"
        return "; ".join(sorted(outcomes, key=lambda outcome: outcome.startswith("not run"))) or "–"


def markdown(rows: list[dict[str, str]]) -> str:
    head = ["way of running", *HOSTS]
    lines = [head, ["---"] * len(head), *([row[key] for key in ("mode", *HOSTS)] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> int:
    table = Table()
    status = pytest.main([str(HERE), "-q", "-n", "0", "--no-header", "--no-summary", "-m", "mode"], plugins=[table])
    rows = table.rows()
    print(json.dumps(rows, indent=1) if "--json" in sys.argv else markdown(rows))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
