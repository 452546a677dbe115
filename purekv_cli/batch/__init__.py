"""Many videos, many questions, overnight: `purekv batch`.

paths and questions -> `Item`s (collect.py) -> minus what the ledger holds (ledger.py) -> `Job`s by clip -> a pool of
workers (local.py: a process each; ray_pool.py: an actor each), which decode ahead while they answer (loop.py) -> one
record an item. Only the driver (driver.py) writes the ledger, so a worker that dies can harm nothing but its own item.
"""
