"""The data that trained attackers learn from in tests: drawn faces, each with its clean one."""

from __future__ import annotations

from typing import Any


def attacked_data(desensitizer: object, size: int) -> dict[str, Any]:
    """The `data` of a config: 8 people with 8 images, a quarter held out.

    Args:
        desensitizer: the config of what is attacked; None for clean faces.
        size: of the images in pixels.
    """
    return {
        "class_path": "datamodules.FaceDataModule",
        "init_args": {
            "global_batch_size": 16,
            "val_share": 0.25,
            "cache": True,
            "keep_clean": True,
            "reader": {
                "class_path": "datamodules.DrawnFaces",
                "init_args": {"identities": 8, "images_per_identity": 8, "size": size},
            },
            "desensitizer": desensitizer,
        },
    }
