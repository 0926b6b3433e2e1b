"""Motion made larger: Eulerian (linear EVM) and learned (MagNet)."""
