"""MOFA-FLEX on logarithms of normalised counts, of all cells: it cannot embed new ones.

It takes missing values, so that a model for predictions is fitted to the data without the modality
to be predicted in the test cells. Ten factors, as MOFA+ has in muon: there is no default.
"""

import mofaflex
import numpy as np
from anndata import AnnData
from exchange import Found, Given, main
from mudata import MuData

N_FACTORS = 10


def fit(given: Given, seed: int, max_epochs: int | None) -> Found:
    def fitted(values: dict[str, np.ndarray]):
        modalities = {m: AnnData(x) for m, x in values.items()}
        for m, adata in modalities.items():
            adata.obs_names = given.names
            adata.var_names = m + adata.var_names
        bound = {"max_epochs": max_epochs} if max_epochs else {}
        mdata = MuData(modalities)
        model = mofaflex.MOFAFLEX(
            mdata,
            mofaflex.DataOptions(plot_data_overview=False),
            mofaflex.ModelOptions(n_factors=N_FACTORS, likelihoods="Normal"),
            mofaflex.TrainingOptions(device="cpu", seed=seed, **bound),
        )
        return model

    def of_only_group(found: dict):
        (values,) = found.values()
        return values

    def predict(target: str) -> np.ndarray:
        model = fitted(given.without(target))
        factors = of_only_group(model.get_factors("numpy"))[given.test]
        weights = model.get_weights("pandas")[target]
        # it leaves out features that do not vary
        every = [f"{target}{j}" for j in range(given.scaled[target].shape[1])]
        return factors @ weights.reindex(columns=every, fill_value=0).to_numpy()

    model = fitted({m: x.toarray() for m, x in given.scaled.items()})
    return Found(
        {"joint": of_only_group(model.get_factors("numpy"))},
        logs={pair: lambda target=pair[1]: predict(target) for pair in given.pairs},
    )


if __name__ == "__main__":
    main(fit)
