"""What a worker process needs while it runs a stage: watchdog, locks, preemption, helpers."""
