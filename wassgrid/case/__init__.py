"""The case language: the text of a case file and its types, and the control problem that they state."""

from wassgrid.case.file import Case, CaseError

__all__ = ["Case", "CaseError"]
