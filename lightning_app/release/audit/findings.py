"""What an audit finds: a list that its parts add to."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightning_app.release.format.marks import Finding


@dataclass
class Findings:
    """Findings of an audit, or of a part of it.

    Attributes:
        findings: what a release must not have.
    """

    findings: list[Finding] = field(default_factory=list)

    def add(self, file: str, what: str) -> None:
        """Note a finding."""
        self.findings.append(Finding(file, what))
