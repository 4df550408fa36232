"""Passes on the nisa dialect: memory, semaphores, engine queues, scalar registers, and a check against the target."""
