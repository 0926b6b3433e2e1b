"""OpenCV-contrib's DualTVL1, in an environment of its own: beside opencv-python it would overwrite that one's files.

    .venv-peers/bin/python benchmarks/_opencv_tvl1.py pairs.npz flow.npz

Reads `prev` and `next` (N, H, W) uint8; writes `flow` (N, 2, H, W) float32, `seconds` (N,), `version`. Needs no mer.
"""

import sys
import time

import cv2
import numpy as np

with np.load(sys.argv[1]) as pairs:
    prev, following = pairs["prev"], pairs["next"]
solver = cv2.optflow.DualTVL1OpticalFlow_create()
solver.calc(prev[0], following[0], None)  # what is set up at the first call is not counted
flow, seconds = np.empty((len(prev), 2, *prev.shape[1:]), np.float32), []
for k in range(len(prev)):
    start = time.perf_counter()
    found = solver.calc(prev[k], following[k], None)
    seconds.append(time.perf_counter() - start)
    flow[k] = found.transpose(2, 0, 1)
np.savez(sys.argv[2], flow=flow, seconds=seconds, version=cv2.__version__)
