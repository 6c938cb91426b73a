"""What a comparison says of its methods in words."""

from __future__ import annotations

from lightning_app.studies.compare.candidate import ComparedMethod


def describe(candidate: ComparedMethod) -> str:
    """Return in a few words what a method does.

    Args:
        candidate: the method.
    """
    description = dict(candidate.setting.data.desensitizer.describe())
    method = str(description.pop("method"))
    if not candidate.setting.data.desensitizer.hides:
        return "nothing is hidden"
    desensitizer = candidate.setting.data.desensitizer
    if not desensitizer.is_image:
        method = f"{method} (no picture: {desensitizer.out_channels} channels; seen as its `look` shows it)"
    if isinstance(steps := description.pop("steps", None), list):
        method += f": {' + '.join(str(step['method']) for step in steps)}"
    if "key_hash" in description:
        description["key"] = str(description.pop("key_hash"))[:12]
    if "mask_hash" in description:
        description = {
            "mask": description.get("mask", "drawn"),
            "hidden": f"{100 * float(str(description.get('mask_ratio', 'nan'))):.1f} %",
            "hash": str(description["mask_hash"])[:12],
        }
    return ", ".join([method, *(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                                for key, value in description.items() if value is not None)])  # fmt: skip
