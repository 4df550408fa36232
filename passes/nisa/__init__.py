"""Passes on the nisa dialect: allocate memory, insert semaphores, split into engine queues, allocate registers, verify."""
