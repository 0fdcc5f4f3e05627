"""The pure kernel: no I/O, no network, no clock."""
