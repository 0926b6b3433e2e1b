"""Public names of the leave-one-subject-out engine; mer.loso has the code."""
