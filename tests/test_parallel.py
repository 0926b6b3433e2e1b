"""One thread a worker, also for code that is imported after the limit was set."""

import subprocess
import sys

import joblib

from mer import parallel
from mer.parallel import Engine, map_clips


def count(_) -> int:
    return parallel.threads()


def test_threads_inside_and_outside_a_worker():
    assert parallel.threads() == joblib.cpu_count()
    for workers in (1, 2):
        assert map_clips(count, [1, 2, 3], Engine(workers=workers)) == [1, 1, 1]
    assert parallel.threads() == joblib.cpu_count()


def test_flow_of_a_batch_stays_on_one_thread_in_a_serial_run():
    """The kernels are imported only when the first clip is computed."""
    code = """
import numpy as np
from mer.motion.tvl1 import tvl1
from mer.parallel import Engine, map_clips
import concurrent.futures
def pool(*arguments):
    raise SystemExit("threads were started")
concurrent.futures.ThreadPoolExecutor = pool
images = np.zeros((4, 32, 32), np.uint8)
map_clips(lambda _: tvl1(images, images), [1, 2], Engine(workers=1))
print("none")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "none"
