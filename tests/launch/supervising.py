"""A program for the tests: watches a stand-in for Triton as `serve` does, and reports on standard output.

`python -m tests.launch.supervising FOLDER NAME BEHAVIOUR`: state and logs go into FOLDER, the stand-in makes the
/dev/shm entries NAME-a and NAME-b and a child in a session of its own that ignores SIGTERM, and opens NAME-c if it is
there. BEHAVIOUR: obedient; deaf to SIGTERM; short-lived; or with its child as an orphan.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from kimi_k2_serving.launch import triton_process
from kimi_k2_serving.launch.command import Command
from kimi_k2_serving.launch.triton_process import Stopped, TritonProcess
from kimi_k2_serving.settings import inherited

STAND_IN = """
import mmap, os, signal, subprocess, sys, time
name, behaviour = sys.argv[1:]
def entry(path):
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    os.ftruncate(handle, 4096)
    return handle
held = entry(f"/dev/shm/{name}-a")
child = (
    "import mmap, os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "handle = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR, 0o600); os.ftruncate(handle, 4096);"
    "mapped = mmap.mmap(handle, 4096); os.close(handle); print('up', flush=True); time.sleep(600)"
)
line = [sys.executable, "-c", child, f"/dev/shm/{name}-b"]
if behaviour == "orphan":
    line = ["sh", "-c", '"$@" &', "sh", *line]
process = subprocess.Popen(line, start_new_session=True, stdout=subprocess.PIPE)
process.stdout.readline()
if os.path.exists(f"/dev/shm/{name}-c"):
    borrowed = os.open(f"/dev/shm/{name}-c", os.O_RDONLY)
if behaviour == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if behaviour == "short":
    time.sleep(2)
    sys.exit(3)
time.sleep(600)
"""


def main(folder: Path, name: str, behaviour: str) -> None:
    runtime_dir = triton_process.make_runtime_dir(folder)
    (runtime_dir / "socket").touch()
    command = Command((sys.executable, "-c", STAND_IN, name, behaviour), {})
    watched = TritonProcess(command, log=folder / "log", run=folder, runtime_dir=runtime_dir, grace=0)
    status: int | str | None = None
    try:
        watched.start(inherited())
        while not Path(f"/dev/shm/{name}-b").exists() and status is None:
            status = watched.wait(0.1)
        watched.wait(1.1)  # one look at what was made
        print(json.dumps({"pid": os.getpid(), "runtime_dir": str(runtime_dir)}), flush=True)
        status = watched.wait(60)
    except Stopped as stopped:
        status = str(stopped)
    begun = time.monotonic()
    removed = watched.stop()
    print(json.dumps({"status": status, "removed": removed, "seconds": time.monotonic() - begun}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
