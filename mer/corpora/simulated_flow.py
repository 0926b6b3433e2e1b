"""Corpora of simulated flow, in the form of the public releases: nobody was recorded (mer.synthetic.flow_corpus)."""

from mer.facs import CLASSES as NAMES

RELEASED = ("flow",)
CLASSES = {3: {name: {name} for name in NAMES}}
