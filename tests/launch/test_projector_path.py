"""Which projector a model gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamafast.errors import ConfigError
from llamafast.launch.config import ModelConfig
from llamafast.launch.model_file import BUILT_IN_MODEL, BUILT_IN_PROJECTOR, projector_path

OTHER = Path("/other.gguf")


@pytest.mark.parametrize(
    ("media", "path", "expected"),
    [
        (None, BUILT_IN_MODEL, BUILT_IN_PROJECTOR),
        ({"image_max_tokens": 9}, BUILT_IN_MODEL, BUILT_IN_PROJECTOR),
        ({"mmproj_path": "built-in"}, OTHER, BUILT_IN_PROJECTOR),
        ({"mmproj_path": __file__}, BUILT_IN_MODEL, Path(__file__)),
        (None, OTHER, None),
    ],
)
def test_projector_is_the_configured_one_or_that_of_the_built_in_model(media, path, expected):
    assert projector_path(ModelConfig(path="m", mtmd=media), path) == expected


@pytest.mark.parametrize(
    ("media", "message"),
    [({}, "mtmd: give mmproj_path"), ({"mmproj_path": "/nowhere.gguf"}, "mmproj_path: /nowhere.gguf: no such file")],
)
def test_projector_that_is_not_there_is_refused(media, message):
    with pytest.raises(ConfigError, match=message):
        projector_path(ModelConfig(path="m", mtmd=media), OTHER)
