"""pytest_test: one file of tests, run against the wheel for tests."""

load("@local_python//:defs.bzl", "PYTHON")

# PYTHONSAFEPATH: what is imported is the wheel, not the folder of the same name beside the tests. Of a wheel for tests
# pytest is told, so that none passes that has lost what it is for.
_LAUNCHER = """#!/bin/bash
set -euo pipefail
{python} -m zipfile --extract {wheel} "$TEST_TMPDIR/site"
export PYTHONPATH="$TEST_TMPDIR/site" PYTHONSAFEPATH=1 JAX_FLASH_MLA_TEST_BUILD=1
exec {python} -m pytest {source} --junitxml="$XML_OUTPUT_FILE" \\
  ${{TESTBRIDGE_TEST_ONLY:+-k "$TESTBRIDGE_TEST_ONLY"}} "$@"
"""

def _pytest_test_impl(ctx):
    launcher = ctx.actions.declare_file(ctx.label.name + ".sh")
    ctx.actions.write(launcher, is_executable = True, content = _LAUNCHER.format(
        python = PYTHON,
        source = ctx.file.src.short_path,
        wheel = ctx.file.wheel.short_path,
    ))
    runfiles = ctx.runfiles(files = [ctx.file.src, ctx.file.wheel] + ctx.files.data)
    return [DefaultInfo(executable = launcher, runfiles = runfiles)]

pytest_test = rule(
    implementation = _pytest_test_impl,
    doc = "Needs pytest and the dependencies of the package in the environment of PYTHON_BIN_PATH.",
    test = True,
    attrs = {
        "data": attr.label_list(allow_files = True),
        "src": attr.label(allow_single_file = [".py"], mandatory = True),
        "wheel": attr.label(allow_single_file = [".whl"], mandatory = True),
    },
)
