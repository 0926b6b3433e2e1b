"""A dask scheduler and its workers, real processes on loopback."""

import os
import subprocess
import sys
import time


class Cluster:
    """A scheduler and workers in a folder, each a process; `address` is the scheduler's file."""

    def __init__(self, folder, workers=2, threads=1):
        self.address, self.processes = str(folder / "scheduler.json"), []
        root = os.getcwd()
        environment = os.environ | {"PYTHONPATH": root, "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
        common = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", self.address]
        common += ["--dashboard-address", "127.0.0.1:0"]  # its pages are off, its port is not
        commands = [["dask_scheduler", *common, "--port", "0"]]
        commands += [["dask_worker", *common, "--nthreads", str(threads), "--no-nanny", "--local-directory",
                      str(folder / f"w{n}")] for n in range(workers)]  # fmt: skip
        for name, *arguments in commands:
            command = [sys.executable, "-m", f"distributed.cli.{name}", *arguments]
            with (folder / f"{len(self.processes)}.log").open("w") as log:
                self.processes.append(subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log))
        self.wait(workers)

    def wait(self, workers):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if os.path.exists(self.address):
                from distributed import Client

                with Client(scheduler_file=self.address, timeout=20, set_as_default=False) as client:
                    if workers:
                        client.wait_for_workers(workers, timeout=60)
                return
            time.sleep(0.1)
        raise TimeoutError("the scheduler has not started")

    def end(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()
