"""The memory that the media of all requests take together: counted, refused beyond a limit, and given back."""

from __future__ import annotations

import asyncio
import base64
import gc
from io import BytesIO
from types import SimpleNamespace

import pytest
from PIL import Image

from llamafast.errors import QueueFullError
from llamafast.media.limits import MediaLimits
from llamafast.request import MediaContent
from llamafast.server.chat.media import MediaPart
from llamafast.server.media import MediaLoader
from llamafast.server.media_budget import MediaBudget


class Owner:
    """Something that holds bytes."""


def test_held_bytes_are_counted_until_their_owner_is_freed():
    budget, owner = MediaBudget(100), Owner()
    budget.hold(owner, 60)
    with pytest.raises(QueueFullError):
        budget.hold(Owner(), 60)
    del owner
    gc.collect()
    assert budget.num_bytes == 0
    budget.hold(Owner(), 100)


def test_context_gives_its_bytes_back_after_an_error():
    budget = MediaBudget(100)
    with pytest.raises(RuntimeError), budget.holding(100):
        raise RuntimeError
    assert budget.num_bytes == 0


def part(width: int, seed: int) -> MediaPart:
    out = BytesIO()
    Image.effect_noise((width, width), 50 + seed).convert("RGB").save(out, "PNG")
    return MediaPart.new("image", "data:image/png;base64," + base64.b64encode(out.getvalue()).decode(), f"p{seed}")


def loader(max_bytes: int) -> MediaLoader:
    def image(width, height, rgb, read_rgb):
        return MediaContent(b"digest", width, height, read_rgb)

    prompts = SimpleNamespace(sees=True, hears=False, image=image, parts=lambda content: [])
    made = MediaLoader(prompts, MediaLimits(), None, None)
    made.budget = MediaBudget(max_bytes)
    return made


@pytest.mark.parametrize("width", [64, 700])  # the pixels are kept, or the file
def test_loader_counts_what_waiting_requests_keep_and_frees_it_with_them(width):
    images = loader(10**8)
    waiting = asyncio.run(images.load([part(width, 1)]))
    held = images.budget.num_bytes
    assert held >= 64 * 64 * 3
    assert len(waiting[0].content.read_rgb()) == width * width * 3
    del waiting
    gc.collect()
    assert images.budget.num_bytes == 0


def test_loader_refuses_images_beyond_the_budget_of_all_requests_and_goes_on_after():
    one = part(100, 1)
    images = loader(len(one.source) + 45_000)  # pixels of one and a half
    first = asyncio.run(images.load([one]))
    with pytest.raises(QueueFullError):
        asyncio.run(images.load([one]))
    del first
    gc.collect()
    assert len(asyncio.run(images.load([one]))) == 1
