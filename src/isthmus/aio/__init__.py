"""The asyncio kit: back-off, bounded queues, health server. No word of the domain."""
