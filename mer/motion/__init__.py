"""Motion between frames: optical flow and optical strain. Flow is (2, H, W) float32 px, u right, v down."""
