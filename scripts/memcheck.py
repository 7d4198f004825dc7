"""Runs the GPU tests of a build under compute-sanitizer's memcheck.

usage: memcheck.py BUILD_FOLDER

Tests of one GoogleTest binary share a process, since the sanitizer takes seconds to start. A process fails
where a test fails or where the sanitizer reports an error.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

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


def main(folder: Path) -> int:
    prefix = [sanitizer(), "--tool", "memcheck", "--error-exitcode", "99", "--target-processes", "all"]
    tests = gpu_tests(folder)
    for test in tests:
        # Writes what other tests read, and is none itself.
        if "FIXTURES_SETUP" in properties_of(test):
            subprocess.run(test["command"], env=environment(test), check=True)
    failed, commands = [], merged([test for test in tests if "FIXTURES_SETUP" not in properties_of(test)])
    for command, variables in commands:
        shown = " ".join(argument for argument in command if not argument.startswith(FILTER))
        print(f"\n== memcheck: {shown}", flush=True)
        if subprocess.run([*prefix, *command], env=variables).returncode != 0:
            failed.append(shown)
    for shown in failed:
        print(f"failed: {shown}")
    print(f"\n{len(commands) - len(failed)} passed, {len(failed)} failed, 0 skipped")
    return int(bool(failed) or not commands)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
