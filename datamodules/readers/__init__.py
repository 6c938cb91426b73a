"""Readers of faces: folders, InsightFace records, released sets; pixels as uint8."""
