"""Counts the tests of one or more CTest runs by label, and fails unless some passed and none failed.

usage: test_summary.py FOLDER[=LABEL]...

FOLDER is a build folder with `ctest.json` (ctest --show-only=json-v1) and `ctest.xml` (ctest --output-junit)
of the same selection. With LABEL, its tests are counted under that label alone. A CTest entry that writes a
report of its own (pytest's `--junitxml=`, GoogleTest's `--gtest_output=xml:`) is replaced by the tests in it.
"""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass
class Result:
    name: str
    labels: list[str]
    outcome: str
    reason: str = ""


def entries(folder: Path) -> dict[str, dict]:
    """The CTest entries of the selection: their labels, and their command."""
    found = {}
    for test in json.loads((folder / "ctest.json").read_text())["tests"]:
        properties = {item["name"]: item["value"] for item in test.get("properties", [])}
        found[test["name"]] = {
            "labels": properties.get("LABELS", ["none"]),
            "command": test.get("command", []),
        }
    return found


def skip_reason(output: str) -> str:
    """What a GoogleTest binary printed for GTEST_SKIP()."""
    found = re.search(r": Skipped\n(.+)", output)
    return found.group(1).strip() if found else "no reason printed"


def native_result(case: ElementTree.Element, labels: list[str]) -> Result:
    name, status = case.get("name", ""), case.get("status", "")
    if status == "run":
        return Result(name, labels, PASSED)
    if case.find("skipped") is not None:
        return Result(name, labels, SKIPPED, skip_reason(case.findtext("system-out") or ""))
    return Result(name, labels, FAILED)


def python_results(report: Path, labels: list[str]) -> list[Result]:
    """One result for each test in a report of pytest; the property `label` of a test adds a label."""
    results = []
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        extra = [item.get("value", "") for item in case.iter("property") if item.get("name") == "label"]
        # A file may be labelled gpu for the sake of some of its tests.
        own = sorted({label for label in labels if label != "gpu"} | set(extra))
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            results.append(Result(name, own, FAILED))
        elif skipped is not None:
            results.append(Result(name, own, SKIPPED, (skipped.get("message") or "no reason given").strip()))
        else:
            results.append(Result(name, own, PASSED))
    return results


def google_results(report: Path, labels: list[str]) -> list[Result]:
    """One result for each test that ran, in a report of GoogleTest."""
    results = []
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None:
            results.append(Result(name, labels, FAILED))
        elif skipped is not None:
            reason = (skipped.get("message") or "no reason printed").strip().splitlines()[-1]
            results.append(Result(name, labels, SKIPPED, reason))
        elif case.get("status") == "run":
            results.append(Result(name, labels, PASSED))
    return results


REPORTS = {"--junitxml=": python_results, "--gtest_output=xml:": google_results}


def report_of(command: list[str]) -> tuple[Path, Callable] | None:
    """Where the command writes a report, and the function that reads it; None where it writes none."""
    for argument in command:
        for option, read in REPORTS.items():
            if argument.startswith(option):
                return Path(argument.removeprefix(option)), read
    return None


def folder_results(folder: Path, label: str) -> list[Result]:
    tests = entries(folder)
    results = []
    for case in ElementTree.parse(folder / "ctest.xml").iter("testcase"):
        name = case.get("name", "")
        entry = tests.pop(name)
        whole = native_result(case, entry["labels"])
        report = report_of(entry["command"])
        if report is None:
            results.append(whole)
            continue
        file, read = report
        single = read(file, entry["labels"]) if file.exists() else []
        results += single
        # A process that crashed, ran too long, ended early or failed while collecting is a failure of its own.
        ended_well = whole.outcome != FAILED and file.exists()
        if not ended_well and all(result.outcome != FAILED for result in single):
            results.append(Result(name, entry["labels"], FAILED))
    results += [Result(name, entry["labels"], FAILED) for name, entry in tests.items()]
    for result in results:
        result.labels = [label] if label else result.labels
    return results


def print_table(results: list[Result]) -> None:
    counts = Counter((label, result.outcome) for result in results for label in result.labels)
    print(f"\n{'label':<12}{'ran':>8}{'passed':>8}{'failed':>8}{'skipped':>9}")
    for label in sorted({label for label, _ in counts}):
        passed, failed, skipped = (counts[label, outcome] for outcome in (PASSED, FAILED, SKIPPED))
        print(f"{label:<12}{passed + failed:>8}{passed:>8}{failed:>8}{skipped:>9}")
    for reason, count in Counter(
        result.reason for result in results if result.outcome == SKIPPED
    ).most_common():
        print(f"skipped {count}: {reason}")
    for result in results:
        if result.outcome == FAILED:
            print(f"failed: {result.name}")


def print_total(results: list[Result]) -> int:
    """The exit code: 0 where some tests passed and none failed."""
    total = Counter(result.outcome for result in results)
    print(f"\n{total[PASSED]} passed, {total[FAILED]} failed, {total[SKIPPED]} skipped")
    return int(total[FAILED] > 0 or total[PASSED] == 0)


def main(arguments: list[str]) -> int:
    results = []
    for argument in arguments:
        folder, _, label = argument.partition("=")
        results += folder_results(Path(folder), label)
    print_table(results)
    return print_total(results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
