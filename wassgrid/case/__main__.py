"""`python -m wassgrid.case`: the table of all keys that stands in README."""

from wassgrid.case.file import Case
from wassgrid.case.keys import key_table

if __name__ == "__main__":
    print(key_table(Case))
