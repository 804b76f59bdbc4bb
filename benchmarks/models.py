"""The models of the benchmarks: the built-in model, and models with random weights, which are written once."""

from __future__ import annotations

import argparse
import os
import runpy
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BUILT_IN = REPOSITORY / "llamafast" / "models" / "tiny-qwen35-f16.gguf"
WRITERS = REPOSITORY / "tests" / "tiny_models.py"

# A writer in tests/tiny_models.py and its arguments. The first model costs as much as a real small model. In the second
# the vocabulary costs more than the layers, as in small models of the Qwen3.5 family.
GENERATED: dict[str, tuple[str, dict[str, int | bool]]] = {
    "random-0.6b": ("write_06b_model", {}),
    "random-248k": (
        "write_attention_model",
        {
            "n_vocab": 248_320,
            "n_layer": 4,
            "n_embd": 256,
            "n_ff": 1024,
            "n_head": 4,
            "n_head_kv": 2,
            "head_dim": 64,
            "tied": True,
            "q8_0": True,
        },
    ),
    # The shape of bge-small-en-v1.5, and a small one.
    "random-bert": (
        "write_encoder_model",
        {"n_layer": 12, "n_embd": 384, "n_ff": 1536, "n_head": 12, "q8_0": True},
    ),
    "random-bert-small": (
        "write_encoder_model",
        {"n_layer": 3, "n_embd": 256, "n_ff": 1024, "n_head": 8, "q8_0": True},
    ),
    "random-swa": ("write_swa_model", {"n_layer": 4, "n_embd": 256, "n_ff": 1024}),
}


def cache_folder() -> Path:
    """The default folder of generated models, in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llamafast-bench"


def model_path(name: str, folder: Path) -> Path:
    """The file of a model. name: "builtin", a name in GENERATED (written into folder if missing), or a path."""
    if name == "builtin":
        return BUILT_IN
    if name not in GENERATED:
        return Path(name).resolve()
    path = folder.resolve() / f"{name}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        writer, arguments = GENERATED[name]
        unfinished = path.with_suffix(".part")
        # Import by file: the test folder is not a package.
        runpy.run_path(str(WRITERS))[writer](unfinished, **arguments)
        unfinished.rename(path)
    return path


def main() -> None:
    """Write the generated models ahead of a benchmark and print their paths."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model-dir", type=Path, default=cache_folder())
    parser.add_argument("names", nargs="*", default=list(GENERATED))
    options = parser.parse_args()
    for name in options.names:
        print(model_path(name, options.model_dir))


if __name__ == "__main__":
    main()
