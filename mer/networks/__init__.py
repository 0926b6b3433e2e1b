"""What models share: networks, layers that draw random numbers for one fold, batch norm under padding."""
