"""scripts/memcheck.py fails unless tests ran on a GPU and the sanitizer found nothing. It runs here with
programs in place of CTest, the sanitizer, and GoogleTest's binaries."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "memcheck.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="not in a source tree")

SANITIZER = """#!/bin/sh
while [ "$1" != --target-processes ]; do shift; done
shift 2
"$@" || exit $?
exit "${SANITIZER_FOUND:-0}"
"""
# Prints the listing that the test wrote.
CTEST = '#!/bin/sh\ncat "$LISTING"\n'
# What GoogleTest writes, of the cases that the test wrote.
NATIVE = """#!/bin/sh
for argument; do
  case $argument in --gtest_output=xml:*) report=${argument#--gtest_output=xml:} ;; esac
done
printf '<testsuites><testsuite>%s</testsuite></testsuites>' "$CASES" >"$report"
case $CASES in *failure*) exit 1 ;; esac
"""
PASSES = '<testcase name="a" classname="Group" status="run" result="completed" />'
SKIPS = (
    '<testcase name="b" classname="Group" status="run" result="skipped">'
    '<skipped message="file.cc:1&#x0A;no CUDA device" /></testcase>'
)
FAILS = '<testcase name="c" classname="Group" status="run"><failure message="x" /></testcase>'
LEFT_OUT = '<testcase name="d" classname="Group" status="notrun" result="suppressed" />'


def program(folder: Path, name: str, text: str) -> str:
    file = folder / name
    file.write_text(text)
    file.chmod(0o755)
    return str(file)


def memcheck(folder: Path, tests: list[dict], **variables: str) -> subprocess.CompletedProcess:
    program(folder, "ctest", CTEST)
    program(folder, "compute-sanitizer", SANITIZER)
    (folder / "listing.json").write_text(json.dumps({"tests": tests}))
    environment = os.environ | variables | {"LISTING": str(folder / "listing.json")}
    environment["PATH"] = f"{folder}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, str(SCRIPT), str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def native(folder: Path, cases: str, **variables: str) -> subprocess.CompletedProcess:
    binary = program(folder, "native_tests", NATIVE)
    tests = [{"name": "Group.a", "command": [binary, "--gtest_filter=Group.a"]}]
    return memcheck(folder, tests, CASES=cases, **variables)


@pytest.mark.parametrize(
    ("cases", "code", "counts"),
    [
        (PASSES, 0, "1 passed, 0 failed, 0 skipped"),
        (PASSES + SKIPS + LEFT_OUT, 0, "1 passed, 0 failed, 1 skipped"),
        (SKIPS, 1, "0 passed, 0 failed, 1 skipped"),
        (LEFT_OUT, 1, "0 passed, 0 failed, 0 skipped"),
        (PASSES + FAILS, 1, "1 passed, 1 failed, 0 skipped"),
    ],
)
def test_native_tests(cases: str, code: int, counts: str, tmp_path: Path) -> None:
    result = native(tmp_path, cases)
    assert result.stdout.strip().endswith(counts), result.stdout + result.stderr
    assert result.returncode == code
    assert ("skipped 1: no CUDA device" in result.stdout) == (SKIPS in cases)


def test_errors_of_the_sanitizer(tmp_path: Path) -> None:
    result = native(tmp_path, PASSES, SANITIZER_FOUND="99")
    assert result.returncode == 1
    assert "1 passed, 1 failed, 0 skipped" in result.stdout


@pytest.mark.parametrize(
    ("body", "marked", "code", "counts"),
    [
        ("pass", True, 0, "1 passed, 0 failed, 0 skipped"),
        ("pytest.skip('no CUDA device')", True, 1, "0 passed, 0 failed, 1 skipped"),
        ("pass", False, 1, "0 passed, 0 failed, 0 skipped"),
        ("raise ValueError", True, 1, "0 passed, 1 failed, 0 skipped"),
    ],
)
def test_python_tests(body: str, marked: bool, code: int, counts: str, tmp_path: Path) -> None:
    label = 'request.node.user_properties.append(("label", "gpu"))' if marked else "pass"
    file = tmp_path / "test_file.py"
    file.write_text(f"import pytest\n\ndef test(request):\n    {label}\n    {body}\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(file)]
    command.append(f"--junitxml={tmp_path / 'test_file.xml'}")
    result = memcheck(tmp_path, [{"name": "python.test_file", "command": command}])
    assert result.stdout.strip().endswith(counts), result.stdout + result.stderr
    assert result.returncode == code


def test_no_tests(tmp_path: Path) -> None:
    assert memcheck(tmp_path, []).returncode == 1
