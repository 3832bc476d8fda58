"""Result files: HDF5, crash-safe, self-describing. Knows nothing of the method."""

from wassgrid.storage.layout import Axis, StorageError, Variable
from wassgrid.storage.reader import Named, ResultFile
from wassgrid.storage.writer import ResultWriter

__all__ = ["Axis", "Named", "ResultFile", "ResultWriter", "StorageError", "Variable"]
