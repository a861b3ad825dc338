"""A pytest plugin: ``--results FILE`` writes what passed, failed and was skipped, and on what.

While this process has a CUDA device that a kernel is written for, a skipped test is a
failure: nothing that such a machine can test may go untested unseen. Two things are none:
a test that needs more devices than there are raises ``TooFewDevices``, and stays skipped;
what tests a part that the build does not have is not collected at all (``conftest.py``),
and told in the header and in the file.
"""

import datetime
import json
import pathlib

import pytest

# {what is not here: patterns of the files that test it}, set by a conftest.
NOT_COLLECTED = pytest.StashKey[dict[str, list[str]]]()


class TooFewDevices(pytest.skip.Exception):
    """Skips a test that needs more devices than this process has."""


def pytest_addoption(parser):
    parser.addoption("--results", metavar="FILE", help="write outcomes, card, driver and versions to this JSON file")


def pytest_configure(config):
    path = config.getoption("--results")
    # Under xdist the controller hears of every test; workers write nothing.
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(ResultsFile(pathlib.Path(path)), "results-file")


def pytest_report_header(config):
    absent = config.stash.get(NOT_COLLECTED, {})
    return [f"not collected for want of {what}: {', '.join(files)}" for what, files in absent.items()]


def fit_devices():
    """Architectures of this process's devices that every kernel is written for: no skip there has a good reason."""
    from jax_flash_mla import _support

    written = frozenset(_support.ARCHITECTURES).intersection(*_support.WRITTEN.values())
    return [name for name in _support.local_architectures() if name in written]


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
def pytest_runtest_makereport(call):
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, TooFewDevices):
        report.longrepr = (*report.longrepr[:-1], f"Skipped: {call.excinfo.value}")
        return report
    return fail_if_it_could_have_run(report)


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

    def pytest_sessionfinish(self, session, exitstatus):
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
            "not_collected": session.config.stash.get(NOT_COLLECTED, {}),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(contents, indent=1) + "\n")
