"""Programs that run inside pods in the place of well-known images.

Invariant: standard library only, and little of it: `python -IS`, no asyncio, no msgspec, and no `typing` but where DNS
needs it. A lab has dozens of these processes, and what each of them imports is paid for in each of them.
"""
