"""Shapes in annotations, checked in a part of the tests and never in use (conftest.py)."""

from beartype import BeartypeConf, beartype

# an int does for a float, as for type checkers
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
