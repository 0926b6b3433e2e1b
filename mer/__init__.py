"""Micro-expression recognition: from raw frames to leave-one-subject-out metrics.

Arrows point one way: stages -> mer.{corpora, faces, motion, models, training, evaluation}
-> mer.{clips, cache, params, errors, parallel}. Nothing in here knows DVC, the command line
or where the project lies, and importing it loads nothing heavy.
"""

__version__ = "0.1.0"
