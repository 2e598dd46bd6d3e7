"""z of people by pcntoolkit, each left out of the model that says it; run by a Python that has pcntoolkit, alone.

It is GPL, so it is no dependency, and nothing of this project is imported here: FOLDER/people.csv has the columns
cohort, person, label, age, sex and log, and FOLDER/MODEL.csv gets cohort, person and z.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from pcntoolkit import BLR, BsplineBasisFunction, NormativeModel, NormData

FOLDS = 10
SHASH = {"warp_name": "warpsinharcsinh", "warp_reparam": True}
MODELS = {"linear": {}, "warped": SHASH}
"""Bayesian linear regression, and with a sinh-arcsinh warp of the values."""


def main(folder: Path) -> None:
    logging.disable(logging.INFO)
    people = pd.read_csv(folder / "people.csv")
    people["women"] = (people["sex"] == "F").astype(float)
    for name, options in MODELS.items():
        parts = [z_of(cohort, options) for _, cohort in people.groupby("cohort")]
        pd.concat(parts).to_csv(folder / f"{name}.csv", index=False)


def z_of(cohort: pd.DataFrame, options: dict[str, object]) -> pd.DataFrame:
    """Z of everybody, in tenths, by a model of the other nine."""
    fold = np.random.default_rng(0).permutation(len(cohort)) % FOLDS
    parts = []
    for number in range(FOLDS):
        with tempfile.TemporaryDirectory() as folder:
            model = NormativeModel(
                BLR(
                    fixed_effect=True,
                    basis_function_mean=BsplineBasisFunction(basis_column=0, degree=3, nknots=5),
                    **options,
                ),
                savemodel=False,
                evaluate_model=False,
                saveresults=False,
                saveplots=False,
                save_dir=folder,
            )
            model.fit(data_of(cohort[fold != number]))
            test = cohort[fold == number]
            z = model.predict(data_of(test)).Z.to_numpy().ravel()
        parts.append(test[["cohort", "person"]].assign(z=z))
    return pd.concat(parts)


def data_of(people: pd.DataFrame) -> NormData:
    return NormData.from_dataframe(
        name="people",
        dataframe=people,
        covariates=["age", "women"],
        batch_effects=["label"],
        response_vars=["log"],
        subject_ids="person",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
