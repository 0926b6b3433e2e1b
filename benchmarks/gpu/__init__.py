"""What the papers' sizes need, measured on a GPU; see docs/gpu.md.

Each line is a module here with NUMBER, TITLE and `measure(line)`, which does its work in parts. Needed are torch,
numpy, scipy, opencv, h5py, joblib and tqdm; every part makes its own data.
"""

import time

STARTED = time.monotonic()  # before torch is imported: that, too, is part of the minutes
