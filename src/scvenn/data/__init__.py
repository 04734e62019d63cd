"""From a MuData to tensors: one door for data, checks with kind messages, and alignment by name.

In reading order: ``keys`` (every name that is written or read), ``checks`` (of a MuData as a
whole), ``matrices`` (any matrix becomes CSR or dense), ``on_disk`` (one that stays in its file),
``lazy`` (a MuData of such), ``minified`` (a MuData without any matrix), ``stored`` (the door: where
the matrix of a modality is), ``statistics`` (means and scales), ``columns`` (of ``obs``),
``missing`` (labels that became text), ``renaming`` (features by other names), ``fields`` (which
entry becomes which tensor), ``registry`` (what a set-up found), ``fingerprint`` (was the data
changed?), ``manager`` (all reading goes by it), ``setup`` (what the user asked to be read),
``extending`` (a set-up for further data), ``cells`` (what a read-out gets), ``blocks`` (minibatches
of shuffled blocks of cells), ``names`` (cells known by their names), ``written`` (a MuData becomes
a file).
"""

from scvenn.data.blocks import BlockLoader
from scvenn.data.cells import Cells, Indices, Tensors, choose_rows
from scvenn.data.checks import (
    as_list,
    check_mudata,
    choose_modalities,
    plain,
    quoted,
    warn_of_renamed,
)
from scvenn.data.columns import (
    as_text,
    check_groups,
    find_categories,
    find_column,
    has_column,
)
from scvenn.data.extending import REFERENCE, extended_for
from scvenn.data.fields import ColumnField, observed_cells
from scvenn.data.keys import Keys
from scvenn.data.lazy import read_lazy
from scvenn.data.manager import AlignedManager
from scvenn.data.matrices import Matrix, row_sums
from scvenn.data.minified import minified
from scvenn.data.missing import warn_of_spelled_missing
from scvenn.data.names import hashes_of, moved
from scvenn.data.registry import Registry
from scvenn.data.setup import SetUpMixin, fields_of
from scvenn.data.stored import stored_latent
from scvenn.data.written import errors_of_writing, size_of, write_h5mu

__all__ = [
    "REFERENCE",
    "AlignedManager",
    "BlockLoader",
    "Cells",
    "ColumnField",
    "Indices",
    "Keys",
    "Matrix",
    "Registry",
    "SetUpMixin",
    "Tensors",
    "as_list",
    "as_text",
    "check_groups",
    "check_mudata",
    "choose_modalities",
    "choose_rows",
    "errors_of_writing",
    "extended_for",
    "fields_of",
    "find_categories",
    "find_column",
    "has_column",
    "hashes_of",
    "minified",
    "moved",
    "observed_cells",
    "plain",
    "quoted",
    "read_lazy",
    "row_sums",
    "size_of",
    "stored_latent",
    "warn_of_renamed",
    "warn_of_spelled_missing",
    "write_h5mu",
]
