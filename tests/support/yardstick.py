"""diffusers' own tests as a yardstick: with untrained adapters attached, each must give what it gives without.

    PYTHONPATH=tests python -m support.yardstick /path/to/diffusers             # those of all hosts
    PYTHONPATH=tests python -m support.yardstick /path/to/diffusers tests/pipelines/wan/test_wan.py
    PYTHONPATH=tests python -m support.yardstick /path/to/diffusers --trained   # the proof: adapters that act

Takes a checkout of diffusers, since its tests are not in the wheel; what they test is the diffusers that is installed.
They want `pip install parameterized requests-mock ftfy`. They run twice side by side, once as they are and once with a
router on every transformer, and one more and TAM on every pipeline, as soon as it is built. What is compared of a test
is its outcome, the message of a failure, and to the bit all that transformers and VAE decoders gave in it. Models that
the tests load from the Hub are replaced by `stand_ins`, on both sides; a test that fails on both still compares.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from support.stand_ins import write_hub_cache

from lavieid_adapters.hosts.host_table import HOSTS
from lavieid_adapters.hosts.pipeline_table import PIPELINES

TESTS = Path(__file__).resolve().parents[1]
# Tests that differ for a reason, by what their name matches.
REASONS = {
    "::test_faster_cache_state$": "it asks all that has hooks for FasterCache's; the router's block has its own",
}
# Of the hosts' forwards in all tests the share that may run without a router: caches skip some, and with them the
# router's block. Single files of tests may have many of these.
SKIPPED = 0.05


def host_tests(checkout: Path) -> list[str]:
    """The tests in a checkout of transformers and pipelines that are hosts."""
    names = re.compile(rf"\b({'|'.join([*HOSTS, *PIPELINES])})\b")
    patterns = ("models/transformers/test_*.py", "pipelines/*/test_*.py")
    files = (file for pattern in patterns for file in (checkout / "tests").glob(pattern))
    return sorted(str(file.relative_to(checkout)) for file in files if names.search(file.read_text()))


def run_both(checkout: Path, paths: list[str], adapters: str, folder: Path) -> list[dict]:
    """Run the tests without adapters and with them, in a process each, and read what became of them."""
    write_hub_cache(folder / "hub")
    modules = (str(TESTS), os.environ.get("PYTHONPATH"))
    env = {
        **os.environ, "HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, modules)),
    }  # fmt: skip
    sides, running = ("none", adapters), []
    for side in sides:
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--rootdir=.", "-p", "no:cacheprovider"]
        command += [
            "-p",
            "support.yardstick_plugin",
            "--adapters",
            side,
            "--outcomes",
            str(folder / f"{side}.json"),
            *paths,
        ]
        with open(folder / f"{side}.log", "w") as log:
            running.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=checkout, env=env))
    for process in running:
        process.wait()
    return [json.loads((folder / f"{side}.json").read_text()) for side in sides]


def differing(plain: dict, other: dict) -> dict[str, str]:
    """What differs in which test."""
    found = {}
    for name in sorted({*plain, *other}):
        a, b = plain.get(name), other.get(name)
        if a is None or b is None or a["outcome"] != b["outcome"]:
            found[name] = " → ".join("absent" if t is None else t["outcome"] for t in (a, b))
            found[name] += f": {(b or a)['message'][:300]}"
        elif a["message"] != b["message"]:
            found[name] = f"another message: {a['message'][:200]!r} → {b['message'][:200]!r}"
        elif a["numbers"] != b["numbers"]:
            found[name] = f"{a['outcome']} on both sides, with other numbers"
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("tests", nargs="*", help="paths in the checkout; those of all hosts by default")
    parser.add_argument("--trained", action="store_true", help="adapters that act: fails if no test differs")
    parser.add_argument("--keep", type=Path, help="an empty folder in which the logs and outcomes are left")
    args = parser.parse_args()
    paths = args.tests or host_tests(args.checkout)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.keep or Path(scratch)).resolve()
        plain, other = run_both(args.checkout, paths, "trained" if args.trained else "untrained", folder)
    pairs = Counter(
        f"{test['outcome']} on both sides" for name, test in plain["tests"].items()
        if other["tests"].get(name, {}).get("outcome") == test["outcome"]
    )  # fmt: skip
    found = differing(plain["tests"], other["tests"])
    reasons = {name: next((why for part, why in REASONS.items() if re.search(part, name)), "") for name in found}
    for name, what in found.items():
        print(f"{name}\n    {what}" + (f"\n    {reasons[name]}" if reasons[name] else ""))
    unexplained = sum(not why for why in reasons.values())
    print(f"{len(plain['tests'])} tests of {len(paths)} paths: {dict(pairs)}")
    print(f"{len(found)} differ, {unexplained} of them without a reason; {dict(other['counts'])}")
    counts = other["counts"]
    if not counts.get("router forwards"):
        print("No router ran, so this says nothing: look at the logs that --keep leaves.")
        return 1
    forwards, without = counts.get("host forwards", 0), counts.get("host forwards without a router", 0)
    if not args.tests and without > SKIPPED * forwards:
        print(f"{without} of {forwards} forwards ran without a router, more than {SKIPPED:.0%}: some hosts got none.")
        return 1
    return int(not found if args.trained else unexplained > 0)


if __name__ == "__main__":
    sys.exit(main())
