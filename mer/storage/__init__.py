"""Files of the pipeline: products (HDF5), unfinished work, network weights."""
