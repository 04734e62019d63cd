"""What scanpy makes of embeddings: in one file, as its graph and UMAP take a minute to compile."""

import anndata
import numpy as np
import pytest
import scanpy as sc
import scvi

import scvenn
from scvenn import pl
from tests.conftest import QUIET, data_file, three_modalities
from tests.test_plotting import dots

pytestmark = pytest.mark.slow


def test_neighbors_umap_clusters_and_a_plot_as_in_the_readme(tmp_path):
    """CLL: patients that lack one of the two modalities are used and embedded."""
    data_file("cll.h5mu")
    mdata = scvenn.datasets.cll()
    scvi.settings.seed = 0
    scvenn.MMVAEpp.setup_mudata(mdata, modalities=["rna", "meth"])
    scvenn.MMVAEpp(mdata).train(5, **QUIET)
    patients = mdata[np.isfinite(mdata.obsm["X_shared"]).all(1)].copy()
    patients.obs["IGHV"] = patients.obs["IGHV"].astype("category")
    sc.pp.neighbors(patients, use_rep="X_shared")
    sc.tl.umap(patients)
    sc.tl.leiden(patients, flavor="igraph", n_iterations=2)
    assert patients.obs["leiden"].nunique() > 1
    axes = sc.pl.embedding(patients, "X_umap", color=["IGHV", "leiden"], show=False)
    axes[0].figure.savefig(tmp_path / "umap.png")
    assert (tmp_path / "umap.png").stat().st_size > 10_000


def test_the_shared_embedding_of_a_mosaic_is_clustered():
    mdata = three_modalities(missing=0.3)
    scvenn.MMVAEpp(mdata, n_hidden=8).train(1, **QUIET)
    some = mdata[np.isfinite(mdata.obsm["X_shared"]).all(1)].copy()
    sc.pp.neighbors(some, use_rep="X_shared")
    sc.tl.leiden(some, flavor="igraph", n_iterations=2)
    assert some.obs["leiden"].nunique() >= 1


@pytest.mark.soak
def test_neighbors_of_many_cells_are_found():
    """Another path of scanpy, which releases of pynndescent break that we exclude."""
    rng = np.random.default_rng(0)
    cells = anndata.AnnData(obsm={"X_shared": rng.normal(size=(8_500, 10)).astype(np.float32)})
    sc.pp.neighbors(cells, use_rep="X_shared")
    assert cells.obsp["connectivities"].shape == (8_500, 8_500)


@pytest.mark.usefixtures("_umap")
def test_umap_is_the_default_and_keeps_planted_cell_types_apart():
    mdata = scvenn.datasets.simulate_counts(200, n_features=12, n_types=2)
    mdata.obsm["X_shared"] = mdata.obsm["z_shared"]
    mdata.uns["scvenn"] = {"key_prefix": "X", "modalities": ["rna", "atac"]}
    (ax,) = pl.embeddings(mdata, "cell_type")  # no private latents were written
    colours = ax.collections[0].get_facecolor()
    centres = [dots(ax)[(colours == c).all(1)].mean(0) for c in np.unique(colours, axis=0)]
    spread = dots(ax)[(colours == colours[0]).all(1)].std()
    assert len(centres) == 2
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * spread
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("UMAP 1", "UMAP 2")
