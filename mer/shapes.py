"""What tells a picture with its channels last from a clip or a batch of grey pictures."""

MOST_CHANNELS = 4  # of a picture; (H, W, 3) is one with its channels last, and no clip of H frames 3 px wide
