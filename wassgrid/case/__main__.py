"""`python -m wassgrid.case`: the table of all keys, in Markdown."""

from wassgrid.case.file import Case
from wassgrid.case.keys import key_table

if __name__ == "__main__":
    print(key_table(Case))
