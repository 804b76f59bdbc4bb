"""llama-cpp-python's bindings go first: their import takes llama.cpp's log, which the façade must have last."""

import llama_cpp.llama_cpp  # noqa: F401
