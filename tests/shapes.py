"""Shapes in annotations, checked at every call in tests and never in use (conftest.py)."""

from beartype import BeartypeConf, beartype

# an int does for a float, as for type checkers
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
