"""Runs the GPU tests of a build under compute-sanitizer's memcheck.

usage: memcheck.py BUILD_FOLDER

Tests of one GoogleTest binary share a process, since the sanitizer takes seconds to start. A process fails
where a test fails or where the sanitizer reports an error. Tests that were skipped count as such: where none
passed, the whole fails.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from test_summary import (
    FAILED,
    PASSED,
    Result,
    print_table,
    print_total,
    report_of,
)

# Without PyTorch's cache each tensor is an allocation of its own, so that a step past its end is seen.
ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
FILTER = "--gtest_filter="


def sanitizer() -> str:
    for candidate in ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer"):
        found = shutil.which(candidate)
        if found is not None:
            return found
    raise SystemExit("error: compute-sanitizer is neither on PATH nor in /usr/local/cuda/bin")


def gpu_tests(folder: Path) -> list[dict]:
    command = ["ctest", "--test-dir", str(folder), "--show-only=json-v1", "-L", "^gpu$"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(listing.stdout)["tests"]


def properties_of(test: dict) -> dict:
    return {item["name"]: item["value"] for item in test.get("properties", [])}


def environment(test: dict) -> dict[str, str]:
    """The variables that CTest would set for the test."""
    properties = properties_of(test)
    variables = {**os.environ, **ENVIRONMENT}
    for assignment in properties.get("ENVIRONMENT", []):
        name, value = assignment.split("=", 1)
        variables[name] = value
    for change in properties.get("ENVIRONMENT_MODIFICATION", []):
        name, operation = change.split("=", 1)
        kind, value = operation.split(":", 1)
        if kind != "path_list_prepend":
            raise SystemExit(
                f"error: {test['name']} changes {name} by {kind}, only path_list_prepend is known here"
            )
        variables[name] = os.pathsep.join([value, *filter(None, [variables.get(name)])])
    return variables


def merged(tests: list[dict]) -> list[tuple[list[str], dict[str, str]]]:
    """Commands and their environments: one for each GoogleTest binary, one for each other test."""
    commands: dict[str, tuple[list[str], dict[str, str]]] = {}
    for test in tests:
        filters = [
            argument.removeprefix(FILTER) for argument in test["command"] if argument.startswith(FILTER)
        ]
        if filters and test["command"][0] in commands:
            commands[test["command"][0]][0][1] += ":" + filters[0]
        elif filters:
            commands[test["command"][0]] = ([test["command"][0], FILTER + filters[0]], environment(test))
        else:
            commands[test["name"]] = (test["command"], environment(test))
    return list(commands.values())


def run(command: list[str], variables: dict[str, str], report: Path) -> list[Result]:
    """Runs a command under the sanitizer and returns the results of its GPU tests. What fails without a test
    that fails is a failure of its own."""
    shown = " ".join(argument for argument in command if not argument.startswith(FILTER))
    print(f"\n== memcheck: {shown}", flush=True)
    if any(argument.startswith(FILTER) for argument in command):
        command = [*command, f"--gtest_output=xml:{report}"]
    own = report_of(command)
    if own is not None:
        own[0].unlink(missing_ok=True)
    prefix = [sanitizer(), "--tool", "memcheck", "--error-exitcode", "99", "--target-processes", "all"]
    ended_well = subprocess.run([*prefix, *command], env=variables).returncode == 0
    if own is None:
        return [Result(shown, ["gpu"], PASSED if ended_well else FAILED)]
    file, read = own
    results = read(file, ["gpu"]) if file.exists() else []
    results = [result for result in results if "gpu" in result.labels]
    if not ended_well and all(result.outcome != FAILED for result in results):
        results.append(Result(shown, ["gpu"], FAILED))
    return results


def main(folder: Path) -> int:
    tests = gpu_tests(folder)
    for test in tests:
        # Writes what other tests read, and is none itself.
        if "FIXTURES_SETUP" in properties_of(test):
            subprocess.run(test["command"], env=environment(test), check=True)
    results = []
    with tempfile.TemporaryDirectory() as reports:
        own = [test for test in tests if "FIXTURES_SETUP" not in properties_of(test)]
        for command, variables in merged(own):
            results += run(command, variables, Path(reports) / "report.xml")
    print_table(results)
    return print_total(results)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
