"""Runs an engine's thread during a test."""

from __future__ import annotations

import asyncio


def serve(thread, work):
    """Start an EngineThread, return the result of `await work(thread)`, and stop it."""

    async def main():
        await thread.start()
        try:
            return await asyncio.wait_for(work(thread), 10)
        finally:
            await thread.stop(0.0)

    return asyncio.run(main())
