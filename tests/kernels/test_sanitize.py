"""What counts as findings of compute-sanitizer, for which another program stands in."""

import os
import pathlib
import subprocess
import sys
import tempfile

from absl.testing import parameterized

FILE = pathlib.Path(__file__).with_name("sanitize.py")
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
STAND_IN = """#!/bin/bash
if [ "$2" = racecheck ]; then echo "========= RACECHECK SUMMARY: {hazards}"
else echo "========= ERROR SUMMARY: {errors}"; fi
exit {status}
"""


class SanitizeTest(parameterized.TestCase):
    def run_all_tools(self, program):
        """The exit status, and what is printed."""
        with tempfile.TemporaryDirectory() as folder:
            if program:
                path = pathlib.Path(folder, "compute-sanitizer")
                path.write_text(program)
                path.chmod(0o755)
            command = [sys.executable, FILE, "--all-tools"]
            done = subprocess.run(command, env=os.environ | {"PATH": folder}, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def test_no_findings(self):
        nothing = STAND_IN.format(hazards="0 hazards displayed (0 errors, 0 warnings)", errors="0 errors", status=0)
        status, printed = self.run_all_tools(nothing)
        self.assertEqual(status, 0, printed)
        self.assertRegex(printed, "^" + "".join(rf"{tool}: no findings, \d+ s\n" for tool in TOOLS) + "$")

    @parameterized.named_parameters(
        (
            "errors",
            "0 hazards displayed (0 errors, 0 warnings)",
            "10 errors",
            1,
            ("memcheck", "initcheck", "synccheck"),
        ),
        ("warnings", "1 hazard displayed (0 errors, 1 warning)", "0 errors", 0, ("racecheck",)),
        ("a_failed_call", "0 hazards displayed (0 errors, 0 warnings)", "0 errors", 1, TOOLS),
    )
    def test_findings(self, hazards, errors, status, failed):
        status, printed = self.run_all_tools(STAND_IN.format(hazards=hazards, errors=errors, status=status))
        self.assertEqual(status, 1, printed)
        for tool in failed:
            self.assertRegex(printed, rf"(?m)^{tool}: FAILED, \d+ s$")

    def test_a_tool_that_says_nothing(self):
        status, printed = self.run_all_tools("#!/bin/bash\n")
        self.assertEqual(status, 1, printed)

    def test_no_tool(self):
        status, printed = self.run_all_tools(None)
        self.assertEqual((status, printed), (1, "compute-sanitizer is not on PATH\n"))
