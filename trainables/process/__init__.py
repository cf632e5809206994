"""What a worker's process does besides its stage: watchdog, locks, preemption."""
