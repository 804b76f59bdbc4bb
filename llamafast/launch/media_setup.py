"""From the configuration of images and sounds to what loads and encodes them."""

from __future__ import annotations

from pathlib import Path

from llamafast.engine.media_prompts import MediaPrompts
from llamafast.engine.projector_settings import ProjectorSettings
from llamafast.errors import ConfigError
from llamafast.launch.config import MediaConfig
from llamafast.media.limits import MediaLimits
from llamafast.media.remote import RemoteMedia, RemotePolicy
from llamafast.server.media import MediaLoader

BUILT_IN_MEDIA = MediaConfig()
"""The configuration of the built-in model if there is none."""


def projector_settings(config: MediaConfig) -> ProjectorSettings:
    """How the projector is loaded."""
    return ProjectorSettings(
        image_min_tokens=config.image_min_tokens,
        image_max_tokens=config.image_max_tokens,
        max_cache_bytes=config.embedding_cache.max_bytes,
    )


def media_loader(config: MediaConfig, prompts: MediaPrompts) -> MediaLoader:
    """What loads the media of requests. Raises ConfigError for a folder that does not exist."""
    limits = MediaLimits(
        max_images=config.max_images,
        max_audios=config.max_audios,
        max_image_bytes=config.image_max_bytes,
        max_audio_bytes=config.audio_max_bytes,
        max_video_bytes=config.video_max_bytes,
        fetch_timeout_s=config.image_timeout_seconds,
    )
    policy = RemotePolicy(
        allowed_domains=config.allowed_media_domains,
        allow_private=config.media_allow_private,
        timeout_s=config.image_timeout_seconds,
    )
    root = None
    if config.allowed_local_media_path is not None:
        root = Path(config.allowed_local_media_path).expanduser()
        if not root.is_dir():
            raise ConfigError(f"model.mtmd.allowed_local_media_path: {root}: no such folder")
    return MediaLoader(prompts, limits, None if policy.allowed_domains == () else RemoteMedia(policy), root)
