"""Imports llama-cpp-python's bindings first, because the façade must replace their log callback."""

import llama_cpp.llama_cpp  # noqa: F401
