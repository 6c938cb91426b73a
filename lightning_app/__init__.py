"""FaceVeil: recognisers trained on faces nobody can see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["LoadedRecogniser", "load_recogniser"]

if TYPE_CHECKING:
    from lightning_app.inference.recogniser import LoadedRecogniser, load_recogniser
else:  # a type checker that saw it would take any name

    def __getattr__(name: str) -> Any:
        """Import `load_recogniser` when it is asked for: who imports a desensitizer waits for no Lightning."""
        if name in __all__:
            from lightning_app.inference import recogniser

            return getattr(recogniser, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
