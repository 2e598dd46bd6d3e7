"""Where a session's voxels lie among those of other people of its age, sex and group; within a cohort, no norm.

The model of `qmri_core.analysis.centiles`, at every voxel by itself: groups are taken out by the means of those who
have tissue there, so that what is left to solve is as small as age and sex.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from qmri_core.analysis.centiles import FEWEST_PEOPLE, normal_deviate

_LEFT = 1e-9
"""Of a person's part in their own group's mean or model that others must leave, at least; and of a term's spread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """The first sessions of a cohort's people.

    ``regressors``: of age and sex, shape (person, term); ``groups``: each one's group, a number from 0.
    """

    regressors: NDArray[np.float64]
    groups: NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelScores:
    """Places of one session's voxels, each of shape (voxel,), NaN where nothing can be said.

    ``z``: as of `qmri_core.analysis.centiles.scores`; ``deviation``: its standard deviation, by the measurement and by
    how few others tell what is expected; ``n_people``: others with tissue there.
    """

    z: NDArray[np.float64]
    deviation: NDArray[np.float64]
    n_people: NDArray[np.intp]


class VoxelModel:
    """Expected logs of values at some voxels, from everybody's first session.

    Parameters
    ----------
    people
        Whose logs they are.
    logs
        Shape (person, voxel); NaN where someone has no tissue.
    """

    def __init__(self, people: People, logs: NDArray[np.floating]) -> None:
        n_groups = int(people.groups.max()) + 1
        n, n_terms = people.regressors.shape
        self.people = people
        self.there = np.isfinite(logs)
        self._groups = sparse.csr_array((np.ones(n), (people.groups, np.arange(n))), shape=(n_groups, n))
        self.counts = self._groups @ self.there.astype(np.float64)
        self.mean = self._means(np.where(self.there, logs, 0.0))
        self.term_means = np.stack(
            [self._means(self.there * people.regressors[:, [term]]) for term in range(n_terms)]
        )  # (term, group, voxel)
        own = np.stack([self._terms(people.regressors[k], int(people.groups[k])) for k in range(n)], axis=1)
        own = np.where(self.there, own, 0.0)  # (term, person, voxel)
        centred = np.where(self.there, logs - self.mean[people.groups], 0.0)
        squares = np.einsum("jnv,knv->vjk", own, own)
        scale = np.maximum(people.regressors.var(axis=0), 1e-30) * n
        unit = squares / np.sqrt(scale[:, None] * scale[None, :])
        self.inverse = np.linalg.pinv(unit, rcond=_LEFT, hermitian=True) / np.sqrt(scale[:, None] * scale[None, :])
        rank = np.linalg.matrix_rank(unit, hermitian=True, rtol=_LEFT)
        self.slopes = np.einsum("vjk,kv->jv", self.inverse, np.einsum("jnv,nv->jv", own, centred))
        self.residual = centred - np.einsum("jv,jnv->nv", self.slopes, own)
        self.squares = (self.residual**2).sum(axis=0)
        self.n_people = self.there.sum(axis=0)
        self.freedom = self.n_people - (self.counts > 0).sum(axis=0) - rank

    def _means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Means of groups over those who have tissue, shape (group, voxel); NaN where nobody has."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((self._groups @ values) / self.counts)

    def _terms(self, regressors: NDArray[np.float64], group: int) -> NDArray[np.float64]:
        """Age and sex beside the mean of a group, shape (term, voxel)."""
        return regressors[:, None] - self.term_means[:, group]

    def scores(
        self,
        logs: NDArray[np.floating],
        measured: NDArray[np.floating],
        regressors: NDArray[np.float64],
        group: int,
        person: int,
    ) -> VoxelScores:
        """Places of one session, whoever it is of left out.

        Parameters
        ----------
        logs, measured
            Of its values, and standard deviations of these by the measurement, shape (voxel,); NaN where not known.
        regressors, group
            As of `People`, of this session.
        person
            Place of whoever it is of among the people; the session may be their first, or a later one.
        """
        own = self._terms(self.people.regressors[person], int(self.people.groups[person]))
        terms = self._terms(regressors, group)
        there = self.there[person]
        own = np.where(there, own, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            part = np.where(there, 1 / self.counts[self.people.groups[person]], 0.0)  # of a group's mean
            left = 1 - part - self._product(own, own)
            left = np.where(left < _LEFT, np.nan, left)
            is_same = group == int(self.people.groups[person])
            shared = (part if is_same else 0.0) + self._product(terms, own)
            residual = np.where(there, self.residual[person], 0.0)
            predicted = self.mean[group] + (terms * self.slopes).sum(axis=0) - shared * residual / left
            freedom = self.freedom - there
            variance = (self.squares - residual**2 / left) / freedom
            unsure = 1 / self.counts[group] + self._product(terms, terms) + shared**2 / left
            n_others = self.n_people - there
            is_enough = (n_others >= FEWEST_PEOPLE) & (freedom >= 1) & (variance > 0)
            z = np.full(len(logs), np.nan)
            t = (logs - predicted) / np.sqrt(variance * (1 + unsure))
            said = is_enough & np.isfinite(t)
            z[said] = normal_deviate(t[said], freedom[said].astype(np.float64))
            deviation = np.sqrt((measured**2 / variance + unsure) / (1 + unsure) + z**2 / (2 * freedom))
        return VoxelScores(z=z, deviation=np.where(said, deviation, np.nan), n_people=n_others)

    def _product(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.einsum("jv,vjk,kv->v", one, self.inverse, other))
