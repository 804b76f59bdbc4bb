"""An engine's thread for the length of a test."""

from __future__ import annotations

import asyncio


def serve(thread, work):
    """The result of `await work(thread)`, with an EngineThread that is started before and stopped afterwards."""

    async def main():
        await thread.start()
        try:
            return await asyncio.wait_for(work(thread), 10)
        finally:
            await thread.stop(0.0)

    return asyncio.run(main())
