"""What the machine has: CPUs and memory."""
