"""A client that asks a web server at a steady rate: a program of its own, to be run in a pod by any Python.

`python3 -u steady_client.py HOST PORT RATE [LIMIT]` looks HOST up once and asks RATE times a second, each time with a
connection of its own, until LIMIT requests were made or, without one, until its input ends. Prints a line for each
request when it ends: when it began (Unix seconds), how long it took (seconds), and either the word that follows
`"Cluster": ` in the answer or, in lower case, what went wrong: refused, timeout, reset, unreachable, empty. Every
request ends within PATIENCE seconds.
"""

import asyncio
import re
import socket
import sys
import time

PATIENCE = 1.0
_WORD = re.compile(rb'"Cluster": "([A-Za-z]+)"')


async def _ask(address: str, port: int) -> str:
    writer = None
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(b"GET / HTTP/1.1\r\nHost: rebel-base\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
    except TimeoutError:
        return "timeout"
    except ConnectionRefusedError:
        return "refused"
    except ConnectionError:
        return "reset"
    except OSError:
        return "unreachable"
    finally:
        if writer is not None:
            writer.transport.abort()
    found = _WORD.search(answer)
    return found[1].decode() if found else "empty"


async def _one(address: str, port: int) -> None:
    began = time.time()
    result = await _ask(address, port)
    sys.stdout.write(f"{began:.6f} {time.time() - began:.6f} {result}\n")


async def _input_ends() -> object:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return await reader.read()


async def _main(host: str, port: int, rate: float, limit: int) -> None:
    loop = asyncio.get_running_loop()
    address = (await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0][4][0]
    ended = asyncio.create_task(asyncio.Event().wait() if limit else _input_ends())
    pending: set[asyncio.Task[None]] = set()
    due = loop.time()
    made = 0
    while not ended.done() and (not limit or made < limit):
        task = asyncio.create_task(_one(address, port))
        pending.add(task)
        task.add_done_callback(pending.discard)
        made += 1
        due = max(due + 1 / rate, loop.time() - 0.1)  # what a stalled machine missed is not made up for in one burst
        await asyncio.sleep(max(0.0, due - loop.time()))
    await asyncio.gather(*pending)
    ended.cancel()
    await asyncio.gather(ended, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 0))
