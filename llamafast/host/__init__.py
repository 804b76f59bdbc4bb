"""Facts about the machine: CPUs and memory."""
