"""LoRA adapters: the ones that a context uses."""

from __future__ import annotations

from typing import NamedTuple

from llamafast._core import Context


class Adapter(NamedTuple):
    """One LoRA adapter.

    path: a GGUF file.
    scale: factor of its weights; 1: the adapter as it was trained.
    """

    path: str
    scale: float


class Adapters:
    """The adapters that every sequence of a context uses.

    All sequences of a decode use the same adapters. Cells that were computed with other adapters are wrong, so the
    memory must be empty when the adapters change.
    """

    def __init__(self, context: Context) -> None:
        self.in_use: tuple[Adapter, ...] = ()
        self._context = context
        self._numbers: tuple[int, ...] = ()  # of the adapters in use, as Context.set_loras takes them

    def add(self, adapter: Adapter) -> None:
        """Load an adapter and use it in addition to the others. Raises ModelLoadError, ValueError."""
        numbers = (*self._numbers, self._context.model.load_lora(adapter.path))
        in_use = (*self.in_use, adapter)
        self._context.set_loras([(number, used.scale) for number, used in zip(numbers, in_use, strict=True)])
        self.in_use, self._numbers = in_use, numbers
