"""Runs families on the GPU of this computer and keeps what they write.

    python record.py GOLDEN [--output FOLDER] [--all | --only NAME…]

GOLDEN has GROUP.npz, outputs by "family/number", and record.json (`recordings`). What has no data there is run, or
everything, or certain groups and families; the data of the others stay what they are. Files that change are written to
FOLDER, GOLDEN itself by default, after each group: what is done is not lost when something happens later.

Each family is run twice, and fails if that makes a difference. Kernels run in a process of their own, of which a new one
is started when a kernel hangs or spoils it. A family that fails is reported, and listed in record.json.
"""

import argparse
import datetime
import json
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zipfile

import families
import numpy as np
import writing
from recordings import Recordings

TIMEOUT = 3  # seconds for a family
START_TIMEOUT = 60
# Beyond these nothing more is run: the GPU, or every kernel, is at fault.
MOST_PROCESSES = 60
MOST_SECONDS = 240


def work(folder: pathlib.Path) -> None:
    """The process: reads "group family" from its input, one at a time; answers with lines of JSON."""
    import devices

    def say(**what) -> None:
        print(json.dumps(what), flush=True)

    try:
        gpu = devices.Gpu()
    except Exception:
        say(broken=traceback.format_exc())
        return
    say(card=gpu.name, driver_version=gpu.driver_version)
    groups: dict[str, dict] = {}
    for line in sys.stdin:
        group, name = line.split()
        try:
            if group not in groups:
                groups[group] = families.group(group)
            outputs = gpu.run(groups[group][name].kernel, times=2)
            np.savez(folder / f"{group} {name.replace('/', '|')}.npz", *map(families.as_bytes, outputs))
            say(done=name, shapes=[[str(o.dtype), list(o.shape)] for o in outputs])
        except devices.CudaError as error:
            say(failed=name, why=str(error), ended=error.is_fatal)
            if error.is_fatal:
                return
        except Exception as error:
            say(failed=name, why=f"{type(error).__name__}: {error}")


class Worker:
    """A process that works, and its answers."""

    def __init__(self, folder: pathlib.Path):
        command = [sys.executable, __file__, str(folder), "--work"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def answer(self, timeout: float) -> dict:
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            return {"why": f"no answer within {timeout} s: it hangs"}
        return json.loads(line) if line else {"why": f"the process ended ({self._process.wait()})"}

    def ask(self, group: str, name: str) -> dict:
        try:
            self._process.stdin.write(f"{group} {name}\n")
            self._process.stdin.flush()
        except OSError:
            return {"why": "the process ended"}
        return self.answer(TIMEOUT)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


class Stopped(Exception):
    """No more families can be run."""


class Recorder:
    """Starts workers as needed."""

    def __init__(self, folder: pathlib.Path):
        self.begin = time.monotonic()
        self._folder = folder
        self._processes = 0
        self._worker: Worker | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin

    def start(self) -> dict:
        """A process; the card and the driver that it finds."""
        if self._processes == MOST_PROCESSES:
            raise Stopped(f"{MOST_PROCESSES} processes were spoilt.")
        self._processes += 1
        self._worker = Worker(self._folder)
        hello = self._worker.answer(START_TIMEOUT)
        if "card" not in hello:
            self.end()
            raise Stopped(f"There is no GPU to be used: {hello.get('broken', hello)}")
        return hello

    def record(self, group: str, name: str) -> list[np.ndarray] | str:
        """What a family writes, or why that is not known."""
        if self.seconds > MOST_SECONDS:
            raise Stopped(f"{MOST_SECONDS} seconds are over.")
        if self._worker is None:
            self.start()
        answer = self._worker.ask(group, name)
        if answer.get("done") == name:
            with np.load(self._folder / f"{group} {name.replace('/', '|')}.npz") as loaded:
                arrays = [loaded[f"arr_{i}"] for i in range(len(answer["shapes"]))]
            return [a.reshape(-1).view(np.uint8) for a in arrays]
        # One that says why can go on, unless its context is spoilt: then it has ended.
        if answer.get("failed") != name or answer.get("ended"):
            self.end()
        return answer["why"]

    def end(self) -> None:
        if self._worker:
            self._worker.end()
        self._worker = None


def save(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """As numpy.savez_compressed, at the highest level, with nothing that depends on the time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for name, array in arrays.items():
            with tempfile.TemporaryFile() as file:
                np.lib.format.write_array(file, array)
                file.seek(0)
                out.writestr(zipfile.ZipInfo(name + ".npy"), file.read(), zipfile.ZIP_DEFLATED, 9)


class Golden:
    """The data that there are, and where new ones go."""

    def __init__(self, known: pathlib.Path, output: pathlib.Path):
        self._known, self._output = known, output
        self.recordings = Recordings(known)
        output.mkdir(parents=True, exist_ok=True)

    def load(self, group: str) -> dict[str, np.ndarray]:
        path = self._known / f"{group}.npz"
        if not path.exists():
            return {}
        with np.load(path) as loaded:
            return dict(loaded)

    def add(self, group: str, results: dict[str, list[np.ndarray]], failed: dict[str, str]) -> int:
        """Into the data of a group: bytes that they take now."""
        of = lambda key: key.rsplit("/", 1)[0]
        arrays = {k: a for k, a in self.load(group).items() if of(k) in families.group(group) and of(k) not in results}
        kept = {of(key) for key in arrays}
        for name, outputs in results.items():
            arrays |= {f"{name}/{i}": output for i, output in enumerate(outputs)}
            self.recordings.failed.pop(f"{group}: {name}", None)
        self.recordings.failed |= {f"{group}: {name}": why for name, why in failed.items()}
        size = 0
        if results:
            self.recordings.add(group, list(results), kept)
            save(self._output / f"{group}.npz", arrays)
            size = (self._output / f"{group}.npz").stat().st_size
        self.recordings.save(self._output)
        return size


def wanted(options: argparse.Namespace, golden: Golden, group: str) -> list[str]:
    """Families of a group that are to be run."""
    try:
        names = list(families.group(group))
    except Exception:
        print(f"FAILED {group}\n{traceback.format_exc()}", flush=True)
        golden.recordings.failed[group] = traceback.format_exc()
        return []
    golden.recordings.failed.pop(group, None)
    if options.all:
        return names
    if options.only:
        return [name for name in names if group in options.only or name in options.only]
    known = golden.load(group)
    return [name for name in names if f"{name}/0" not in known]


def record_group(recorder: Recorder, golden: Golden, group: str, names: list[str]) -> None:
    results, failed = {}, {}
    try:
        for name in names:
            outcome = recorder.record(group, name)
            if isinstance(outcome, str):
                failed[name] = outcome
                print(f"FAILED {group}: {name}\n  " + outcome.replace("\n", "\n  "), flush=True)
            else:
                results[name] = outcome
    finally:
        size = golden.add(group, results, failed)
        print(f"{group}: {len(results)} of {len(names)} families, {size} bytes, {recorder.seconds:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("golden", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, help="where changed files go, if not there")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="not only what has no data yet")
    which.add_argument("--only", nargs="+", default=[], help="groups and families")
    which.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.golden)
    golden = Golden(options.golden, options.output or options.golden)
    jobs = {group: names for group in families.GROUPS if (names := wanted(options, golden, group))}
    print(f"{sum(map(len, jobs.values()))} families of {len(jobs)} groups")
    stopped = None
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(pathlib.Path(folder))
        try:
            golden.recordings.begin(about(recorder.start()))
            for group, names in jobs.items():
                record_group(recorder, golden, group, names)
        except Stopped as reason:
            stopped = str(reason)
        finally:
            recorder.end()
    failed = golden.recordings.failed
    print(f"{len(failed)} failed: {', '.join(failed)}" if failed else "none failed")
    if stopped or failed:
        sys.exit(stopped or 1)


def about(card: dict) -> dict[str, str | None]:
    return {
        "card": card["card"],
        "driver": card["driver_version"],
        "kernel_module": kernel_module(),
        "date": datetime.date.today().isoformat(),
        "ptx": writing.VERSION,
    }


def kernel_module() -> str | None:
    try:
        text = pathlib.Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    return text.splitlines()[0]


if __name__ == "__main__":
    main()
