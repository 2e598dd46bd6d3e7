"""Mergeable moments, statistics per tissue, variation between groups, agreement with truth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and sum of squared deviations; two of them add up to those of the union."""

    count: int = 0
    mean: float = 0.0
    sum_squared_deviations: float = 0.0

    @classmethod
    def of(cls, values: ArrayLike) -> Moments:
        """Moments of the finite values, accumulated in float64."""
        array = np.asarray(values, dtype=np.float64)
        array = array[np.isfinite(array)]
        if array.size == 0:
            return cls()
        mean = float(array.mean())
        return cls(int(array.size), mean, float(np.square(array - mean).sum()))

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        if count == 0:
            return Moments()
        delta = other.mean - self.mean
        mean = self.mean + delta * other.count / count
        between = delta**2 * self.count * other.count / count
        return Moments(count, mean, self.sum_squared_deviations + other.sum_squared_deviations + between)

    def standard_deviation(self, ddof: int = 1) -> float:
        """Standard deviation; NaN with ``ddof`` values or fewer."""
        if self.count <= ddof:
            return float("nan")
        return float(np.sqrt(self.sum_squared_deviations / (self.count - ddof)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueStatistics:
    """What one map of one session says of one tissue: the number of finite voxels, and their distribution.

    ``mode`` is where positive values crowd (`densest`): voxels that are mixed with another tissue do not reach it; they
    move the median by some percent, and the mean by more.
    """

    n: int
    mean: float
    sd: float
    median: float
    mode: float
    q05: float
    q25: float
    q75: float
    q95: float


def tissue_statistics(values: NDArray[np.float32]) -> TissueStatistics:
    """Statistics of the finite ``values`` of one tissue; ``sd`` with ddof 1, quantiles by linear interpolation."""
    finite = values[np.isfinite(values)].astype(np.float64)
    moments = Moments.of(finite)
    quantiles = np.quantile(finite, QUANTILES) if finite.size else np.full(len(QUANTILES), np.nan)
    return TissueStatistics(
        n=moments.count,
        mean=moments.mean if moments.count else float("nan"),
        sd=moments.standard_deviation(),
        median=float(quantiles[2]),
        mode=densest(finite),
        q05=float(quantiles[0]),
        q25=float(quantiles[1]),
        q75=float(quantiles[3]),
        q95=float(quantiles[4]),
    )


def densest(values: NDArray[np.floating], share: float = 0.25) -> float:
    """Geometric mean of the shortest interval, of logs, that holds a share of the positive values; NaN if none is.

    The shorth of Andrews et al. 1972 (Robust Estimates of Location) for another share than a half (Einmahl, Gantner and
    Sawitzki 2010, J Comput Graph Stat 19:62): tails do not reach it.
    """
    logs = np.sort(np.log(values[values > 0], dtype=np.float64))
    n = math.ceil(share * logs.size)
    if n == 0:
        return math.nan
    first = int(np.argmin(logs[n - 1 :] - logs[: logs.size - n + 1]))
    return math.exp(float(logs[first : first + n].mean()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """Inter-group variation of one quantity: over groups, of the unweighted mean of session medians."""

    n_groups: int
    mean: float
    sd: float
    cov: float
    """Coefficient of variation, sd (ddof 1) over mean; NaN with fewer than two groups."""


def inter_group_variation(of_sessions: Iterable[Sequence[float]]) -> Variation:
    """Variation between groups; one sequence of session medians, or modes, per group.

    The unit of analysis is the session: each group counts once, by the unweighted mean over its sessions. NaN (maps not
    computed) is left out, and so are groups that have nothing else.
    """
    means = [moments.mean for moments in map(Moments.of, of_sessions) if moments.count]
    over_groups = Moments.of(means)
    sd = over_groups.standard_deviation()
    mean = over_groups.mean if over_groups.count else float("nan")
    return Variation(n_groups=over_groups.count, mean=mean, sd=sd, cov=sd / mean if over_groups.count else float("nan"))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnseenVariation:
    """What is not known of a variation between groups, because their means have errors; in the unit of the means.

    ``imposed`` is what groups differ by beyond what their means show, where these are posterior means: what is not
    measured is drawn to what is expected, which takes variation away by construction. The variation of the true means
    is that of the means and ``imposed``, in squares, with the standard error ``error``.
    """

    imposed: float
    error: float


def unseen_variation(means: ArrayLike, errors: ArrayLike, freedom: float | None = None) -> UnseenVariation:
    """Of groups whose means are known to a normal error.

    Parameters
    ----------
    means
        Of the groups, shape (group,).
    errors
        Standard deviation of each beside the mean over groups, shape (group,).
    freedom
        Of how many independent differences between groups the errors are; ``None`` for all, one fewer than groups.

    Returns
    -------
    UnseenVariation
        NaN with fewer than two groups, or where a mean or an error is not known. ``error`` is that of the variance by
        its moments, over twice the standard deviation (the delta method).
    """
    x, e = np.asarray(means, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if x.size < 2 or not (np.isfinite(x).all() and np.isfinite(e).all()):
        return UnseenVariation(imposed=math.nan, error=math.nan)
    n = x.size - 1
    squares = (x - x.mean()) ** 2
    total = (squares.sum() + (e**2).sum()) / n
    hidden = (e**2).sum()
    variance = (4 * squares.sum() * hidden / n + 2 * hidden**2 / (freedom or n)) / n**2
    error = math.sqrt(variance / (4 * total)) if total > 0 else 0.0
    return UnseenVariation(imposed=float(np.sqrt((e**2).sum() / n)), error=error)


@dataclass(frozen=True, slots=True)
class JointMoments:
    """Moments of pairs (x, y), true and estimated; two of them add up to those of the union."""

    count: int = 0
    mean_x: float = 0.0
    mean_y: float = 0.0
    sum_xx: float = 0.0
    sum_yy: float = 0.0
    sum_xy: float = 0.0
    """Sums of products of deviations from the means."""

    @classmethod
    def of(cls, x: ArrayLike, y: ArrayLike) -> JointMoments:
        """Moments of the pairs in which both are finite, accumulated in float64.

        Raises
        ------
        ValueError
            If the values do not come in pairs.
        """
        a, b = np.asarray(x, dtype=np.float64).ravel(), np.asarray(y, dtype=np.float64).ravel()
        if a.shape != b.shape:
            raise ValueError(f"{b.size} estimated and {a.size} true values; they must come in pairs")
        both = np.isfinite(a) & np.isfinite(b)
        a, b = a[both], b[both]
        if a.size == 0:
            return cls()
        mean_x, mean_y = float(a.mean()), float(b.mean())
        a, b = a - mean_x, b - mean_y
        return cls(int(a.size), mean_x, mean_y, float(a @ a), float(b @ b), float(a @ b))

    def __add__(self, other: JointMoments) -> JointMoments:
        count = self.count + other.count
        if count == 0:
            return JointMoments()
        x, y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        weight = self.count * other.count / count
        return JointMoments(
            count,
            self.mean_x + x * other.count / count,
            self.mean_y + y * other.count / count,
            self.sum_xx + other.sum_xx + x * x * weight,
            self.sum_yy + other.sum_yy + y * y * weight,
            self.sum_xy + other.sum_xy + x * y * weight,
        )

    def centred(self) -> JointMoments:
        """The same pairs with their means taken away, so that adding does not bring in differences of means."""
        return JointMoments(self.count, 0.0, 0.0, self.sum_xx, self.sum_yy, self.sum_xy)

    @property
    def slope(self) -> float:
        """Least-squares slope of y on x; NaN with fewer than three pairs or constant x."""
        return self.sum_xy / self.sum_xx if self.count > 2 and self.sum_xx > 0 else float("nan")

    @property
    def r(self) -> float:
        """Pearson correlation; NaN with fewer than three pairs or if either side is constant."""
        product = self.sum_xx * self.sum_yy
        return self.sum_xy / float(np.sqrt(product)) if self.count > 2 and product > 0 else float("nan")

    @property
    def ccc(self) -> float:
        """Lin's concordance correlation coefficient (Lin 1989, Biometrics 45:255); NaN with fewer than three pairs."""
        spread = self.sum_xx + self.sum_yy + self.count * (self.mean_x - self.mean_y) ** 2
        return 2 * self.sum_xy / spread if self.count > 2 and spread > 0 else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Estimated against true values."""

    n: int
    bias: float
    """Mean relative error."""
    slope: float
    """Least-squares slope of estimated on true: 1 for a faithful map, 0 for a constant one."""
    r: float
    """Pearson correlation; NaN if either side is constant."""
    ccc: float
    """Lin's concordance correlation coefficient."""


def agreement(estimated: ArrayLike, true: ArrayLike) -> Agreement:
    """Agreement over the pairs in which both are finite.

    Slope, r and ccc are NaN with fewer than three pairs, the bias where a true value is 0 (centred values).

    Raises
    ------
    ValueError
        If the values do not come in pairs.
    """
    moments = JointMoments.of(true, estimated)
    y, x = np.asarray(estimated, dtype=np.float64).ravel(), np.asarray(true, dtype=np.float64).ravel()
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    bias = float(np.mean(y / x - 1)) if x.size and x.all() else float("nan")
    return Agreement(n=moments.count, bias=bias, slope=moments.slope, r=moments.r, ccc=moments.ccc)
