"""An owner of faces in a federation: its terms, its training, its side of the link."""
