"""Motion between frames: optical flow and optical strain. Flow is (2, H, W) float32 px, u right, v down."""

MOST_CHANNELS = 4  # of a picture; (H, W, 3) is one with its channels last, and no clip of H frames 3 px wide
