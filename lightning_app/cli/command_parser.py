"""The parser of every command that is not Lightning's own."""

from __future__ import annotations

from lightning_app.cli.nulls import NestedNulls
from lightning_app.cli.parse_error import OneReason


class CommandParser(OneReason, NestedNulls):
    """A parser whose errors are the line that says what is wrong, without screens of usage above it."""
