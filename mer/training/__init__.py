"""Training and leave-one-subject-out evaluation."""
