"""Public name of the leave-one-subject-out engine; mer.loso.run has the code."""

from mer.loso.run import run as run
