"""Runs all families on the GPU of this computer and keeps what they write.

    python record.py FOLDER [--only NAME…]

NAME is a group or a family. FOLDER then has GROUP.npz, outputs by "family/number", and record.json: the card, the driver,
families that failed and why. Each is run twice, and fails if that makes a difference. Kernels run in a process of their
own, of which a new one is started when a kernel hangs or spoils it.
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

TIMEOUT = 3  # seconds for a family
MOST_PROCESSES = 60


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


class Recorder:
    """Starts workers as needed."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.card: dict = {}
        self.failed: dict[str, str] = {}
        self.processes = 0
        self._worker: Worker | None = None

    def start(self) -> Worker:
        if self.processes == MOST_PROCESSES:
            raise SystemExit("Too many processes were spoilt.")
        self.processes += 1
        worker = Worker(self.folder)
        hello = worker.answer(120)
        if "card" not in hello:
            raise SystemExit(f"There is no GPU to be used: {hello.get('broken', hello)}")
        self.card = hello
        return worker

    def record(self, group: str, name: str) -> list[np.ndarray] | None:
        if self._worker is None:
            self._worker = self.start()
        answer = self._worker.ask(group, name)
        if answer.get("done") == name:
            with np.load(self.folder / f"{group} {name.replace('/', '|')}.npz") as loaded:
                arrays = [loaded[f"arr_{i}"] for i in range(len(answer["shapes"]))]
            return [a.reshape(-1).view(np.uint8) for a in arrays]
        self.failed[f"{group}: {name}"] = answer["why"]
        print(f"FAILED {group}: {name}\n  " + answer["why"].replace("\n", "\n  "), flush=True)
        # One that says why can go on, unless its context is spoilt: then it has ended.
        if answer.get("failed") != name or answer.get("ended"):
            self._worker.end()
            self._worker = None
        return None

    def end(self) -> None:
        if self._worker:
            self._worker.end()


def save(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """As numpy.savez_compressed, at the highest level, with nothing that depends on the time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for name, array in arrays.items():
            with tempfile.TemporaryFile() as file:
                np.lib.format.write_array(file, array)
                file.seek(0)
                out.writestr(zipfile.ZipInfo(name + ".npy"), file.read(), zipfile.ZIP_DEFLATED, 9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.folder)
    options.folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(pathlib.Path(folder))
        for group in families.GROUPS:
            try:
                names = list(families.group(group))
            except Exception:
                recorder.failed[group] = traceback.format_exc()
                print(f"FAILED {group}\n{recorder.failed[group]}", flush=True)
                continue
            some = [name for name in names if not options.only or group in options.only or name in options.only]
            results = {name: recorder.record(group, name) for name in some}
            if not some:
                continue
            path = options.folder / f"{group}.npz"
            arrays = {}
            if options.only and path.exists():
                with np.load(path) as known:
                    arrays = {key: known[key] for key in known.files if key.rsplit("/", 1)[0] not in results}
            for name, outputs in results.items():
                arrays |= {f"{name}/{i}": output for i, output in enumerate(outputs or [])}
            save(path, arrays)
            sizes[group] = path.stat().st_size
            good = sum(outputs is not None for outputs in results.values())
            print(f"{group}: {good} of {len(some)} families, {sizes[group]} bytes, {time.monotonic() - begin:.1f} s")
        recorder.end()
    about = {
        "card": recorder.card.get("card"),
        "driver": recorder.card.get("driver_version"),
        "kernel_module": kernel_module(),
        "date": datetime.date.today().isoformat(),
        "ptx": writing.HEADER.split()[1],
        "seconds": round(time.monotonic() - begin, 1),
        "failed": recorder.failed,
    }
    name = "record.json" if not options.only else "record_only.json"
    (options.folder / name).write_text(json.dumps(about, indent=1) + "\n")
    print(f"{sum(sizes.values())} bytes; {len(recorder.failed)} failed; {about['seconds']} s")


def kernel_module() -> str | None:
    try:
        text = pathlib.Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    return text.splitlines()[0]


if __name__ == "__main__":
    main()
