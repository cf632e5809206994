"""Protection of a worker process while it runs a stage: watchdog, locks, preemption."""
