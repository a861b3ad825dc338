"""A pytest plugin: ``--results FILE`` writes what passed, failed and was skipped, and on what.

While this process has a CUDA device that kernels are made for, a skipped test is a
failure: nothing that such a machine can test may go untested unseen.
"""

import datetime
import json
import pathlib

import pytest


def pytest_addoption(parser):
    parser.addoption("--results", metavar="FILE", help="write outcomes, card, driver and versions to this JSON file")


def pytest_configure(config):
    path = config.getoption("--results")
    # Under xdist the controller hears of every test; workers write nothing.
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(ResultsFile(pathlib.Path(path)), "results-file")


def fit_devices():
    """Architectures of this process's devices that kernels are made for."""
    from jax_flash_mla import _support

    return [name for name in _support.local_architectures() if name in _support.ARCHITECTURES]


def fail_if_it_could_have_run(report):
    """Turns a skip into a failure where a fit device is present; expected failures stay."""
    if report.skipped and not hasattr(report, "wasxfail") and (fit := fit_devices()):
        report.outcome = "failed"
        report.longrepr = f"skipped although {', '.join(fit)} is present: {reason_of(report)}"
    return report


def reason_of(report):
    """Why a test was skipped."""
    if hasattr(report, "wasxfail"):
        return f"failed as expected: {report.wasxfail}"
    longrepr = report.longrepr
    return str(longrepr[-1] if isinstance(longrepr, tuple) else longrepr).removeprefix("Skipped: ")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return fail_if_it_could_have_run((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return fail_if_it_could_have_run((yield))


class ResultsFile:
    """Collects outcomes and writes them when the session ends."""

    def __init__(self, path):
        self.path = path
        self.outcomes = {"passed": {}, "failed": {}, "skipped": {}}

    def pytest_runtest_logreport(self, report):
        if report.failed:
            # Also a test that passed, and failed while it was torn down.
            self.outcomes["passed"].pop(report.nodeid, None)
            self.outcomes["failed"][report.nodeid] = str(report.longrepr).strip().splitlines()[-1]
        elif report.skipped:
            self.outcomes["skipped"][report.nodeid] = reason_of(report)
        elif report.when == "call":
            self.outcomes["passed"][report.nodeid] = None

    def pytest_collectreport(self, report):
        if not report.passed:
            self.pytest_runtest_logreport(report)

    def pytest_sessionfinish(self, exitstatus):
        from jax_flash_mla import build_info
        from jax_flash_mla._check.machine import commit, machine

        passed, failed, skipped = self.outcomes.values()
        contents = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": commit(pathlib.Path(__file__).parent),
            "machine": machine(),
            "build": build_info(),
            "exit_status": int(exitstatus),
            "counts": {outcome: len(ids) for outcome, ids in self.outcomes.items()},
            "passed": sorted(passed),
            "failed": failed,
            "skipped": skipped,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(contents, indent=1) + "\n")
