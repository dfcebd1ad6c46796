"""The controllers of a lab cluster: one process that speaks to the API server as anyone else would.

Each controller is a level-triggered loop (`aio.runner.BoundedRunner`) around a pure function: it reads the stores,
works out what should change, and writes it. Missed events, conflicts and restarts cost another round and nothing else.
"""
