"""Asking the agents whether they enforce: they listen on the segment, where only the lab reaches them.

The supervisor sits on the segment too, so it asks for the commands. Bounded in time, number and size of answers.
"""

import asyncio
from collections.abc import Iterable

from isthmus.lab.control import AgentHealth
from isthmus.lab.plan import NodePlan

AGENT_PORT = 9441
_PATIENCE = 2.0
"""Seconds for one answer."""
_AT_ONCE = 16
_MAX_ANSWER = 64 * 1024


async def ask_agents(nodes: Iterable[NodePlan]) -> tuple[AgentHealth, ...]:
    """Returns what the agents of these nodes answer, in the same order."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def ask(node: NodePlan) -> AgentHealth:
        async with room:
            return AgentHealth(node=node.name, missing=await _missing(node.address))

    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(ask(node)) for node in nodes]
    return tuple(task.result() for task in asked)


async def _missing(address: str) -> str:
    try:
        async with asyncio.timeout(_PATIENCE):
            answer = await _get(address)
    except TimeoutError:
        return f"no answer from {address}:{AGENT_PORT} in {_PATIENCE:.0f} s"
    except ConnectionRefusedError:
        return f"{address}:{AGENT_PORT} refuses connections"
    except OSError as error:
        return f"{address}:{AGENT_PORT}: {error.strerror or error}"
    if "readyz check passed" in answer:
        return ""
    failed = [line for line in answer.splitlines() if line.startswith("[-]")]
    return "; ".join(failed) or "an answer that makes no sense"


async def _get(address: str) -> str:
    reader, writer = await asyncio.open_connection(address, AGENT_PORT)
    try:
        writer.write(f"GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        answer = bytearray()
        while len(answer) < _MAX_ANSWER and (part := await reader.read(_MAX_ANSWER)):
            answer += part
        return answer.decode(errors="replace")
    finally:
        writer.close()
