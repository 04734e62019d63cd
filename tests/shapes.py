"""How annotations of the networks are checked in tests: as type checkers do, an int is a float."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
