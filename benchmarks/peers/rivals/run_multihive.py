"""multiHIVE on raw counts: its joint latent, and this with the latents of each modality.

It is not asked for predictions: none of its functions gives the proteins of cells without them.
"""

import scipy.sparse as sp
import scvi
from anndata import AnnData
from exchange import Found, Given, main
from multiHIVE.model import multiHIVE

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def fit(given: Given, seed: int, max_epochs: int | None) -> Found:
    scvi.settings.seed = seed
    rna, other = given.measured.values()
    with_proteins = "adt" in given.measured

    def readable(rows: object) -> AnnData:
        # genes, then regions
        adata = AnnData((rna if with_proteins else sp.hstack([rna, other], "csr"))[rows])
        adata.obs["batch"] = given.batch[rows]
        proteins = {}
        if with_proteins:
            adata.obsm["proteins"] = other[rows].toarray()
            proteins = {"protein_expression_obsm_key": "proteins"}
        multiHIVE.setup_anndata(adata, batch_key="batch", **proteins)
        return adata

    model = multiHIVE(
        readable(given.train),
        n_genes=rna.shape[1],
        n_regions=0 if with_proteins else other.shape[1],
        n_proteins=other.shape[1] if with_proteins else 0,
    )
    # which 0.1.1 switches on where a protein is 0 in all cells of a batch, and then fails
    model.train(max_epochs, adversarial_classifier=False, **QUIET)
    found = model.get_latent_representation(readable(slice(None)), add_latents_to_adata=False)
    return Found({"joint": found["Z1_multiHIVE"], "joint + private": found["Z_multiHIVE"]})


if __name__ == "__main__":
    main(fit)
