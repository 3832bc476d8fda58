"""The case that a result file was computed from."""

from __future__ import annotations

from collections.abc import Sequence

from wassgrid.case.file import Case, CaseError, FunctionsError
from wassgrid.storage import ResultFile, StorageError


def case_of(result: ResultFile, overrides: Sequence[str] = ()) -> Case:
    """Read the case of a result file; overrides as in `Case.load`.

    Raises StorageError where the case of the file is not one, CaseError for an override that does not fit it.
    """
    text, name = result.case_text, result.text("case_name")
    try:
        case = Case.from_text(text, name)
    except FunctionsError as error:
        raise StorageError(f"'{result.path}': {error}") from error
    except CaseError as error:
        raise StorageError(f"'{result.path}' holds a case that is not valid: {error}") from error
    return Case.from_text(text, name, overrides) if overrides else case
