"""What leaves the house: the released set, its pseudonyms, its manifest and its signature."""

from lightning_app.release.format.manifest import Manifest, MaskEntry
from lightning_app.release.format.pseudonyms import Pseudonyms

__all__ = ["Manifest", "MaskEntry", "Pseudonyms"]
