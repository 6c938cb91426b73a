"""What a release is on disk: manifest, images and mask, signature; read and written by the same rules."""
