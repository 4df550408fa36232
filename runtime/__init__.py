"""What loads, places and runs a compiled model: the NEFF format, the machine, sessions."""
