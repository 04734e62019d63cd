"""MuVI on logarithms of normalised counts, of all cells: it cannot embed new ones.

It takes missing values, so that a model for predictions is fitted to the data without the modality
to be predicted in the test cells. Ten factors, as MOFA+ has in muon: there is no default.
"""

from exchange import Found, Given, main
from muvi import MuVI

N_FACTORS = 10


def fit(given: Given, seed: int, max_epochs: int | None) -> Found:
    def fitted(values: dict):
        model = MuVI(values, n_factors=N_FACTORS, device="cpu")
        model.fit(n_epochs=max_epochs or 0, seed=seed, verbose=False)
        return model

    def predict(target: str):
        model = fitted(given.without(target))
        return model.get_reconstructed(target)[target][given.test]

    model = fitted({m: x.toarray() for m, x in given.scaled.items()})
    return Found(
        {"joint": model.get_factor_scores()},
        logs={pair: lambda target=pair[1]: predict(target) for pair in given.pairs},
    )


if __name__ == "__main__":
    main(fit)
