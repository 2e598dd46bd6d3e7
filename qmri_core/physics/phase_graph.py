"""Extended phase graph of CPMG echo trains: TSE, inversion-recovery TSE, and variable-flip 3D TSE.

Crushers and readout dephase by one unit in each half echo spacing. The states then fall into two sets that never mix:
what the excitation made transverse sits at odd orders when a pulse comes and makes the echoes; the longitudinal
magnetisation and the pulses' own free induction sit at even orders and decide what the train leaves for the next
cycle. With excitation phase 90 degrees and refocusing phase 0 both sets are real. Orders that cannot come back to
zero in time are dropped, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qmri_core.physics.steady_state import Value, decay, longitudinal_at_excitation, scaled_angle


def scaled_angles(angles: Sequence[float], scale: Tensor) -> list[Tensor]:
    """Scale each angle; equal ones share a tensor, so that their sines are computed once."""
    shared = {angle: angle * scale for angle in set(angles)}
    return [shared[angle] for angle in angles]


def echo_amplitude(
    t1: Tensor, t2: Tensor, *, refocusing_angles: Sequence[Value], echo_spacing: Value, centre_index: int
) -> Tensor:
    """Amplitude of echo ``centre_index`` (from 1) per unit of transverse magnetisation right after the excitation.

    Parameters
    ----------
    t1, t2
        Seconds, any shapes that broadcast.
    refocusing_angles
        Actual angles in radians, one per pulse; numbers, or tensors that broadcast against ``t1``.
    echo_spacing
        Seconds.
    centre_index
        Echo to return; at most as many as there are angles.

    Returns
    -------
    Tensor
        Amplitude, shape of the broadcast inputs.
    """
    transverse_left = decay(echo_spacing, t2)
    longitudinal_left = decay(echo_spacing, t1)
    half_left = decay(echo_spacing / 2, t2)
    plus = (half_left * torch.ones_like(t1)).unsqueeze(0)
    minus = torch.zeros_like(plus)
    stored = torch.zeros_like(plus)
    for index in range(1, centre_index + 1):
        plus, minus, stored = _refocus(plus, minus, stored, refocusing_angles[index - 1], t1)
        if index == centre_index:
            break
        keep = min(index + 1, centre_index - index)
        plus = torch.cat([minus[:1], plus])[:keep] * transverse_left
        minus = _grown(minus[1:], keep) * transverse_left
        stored = _grown(stored, keep) * longitudinal_left
    return minus[0] * half_left


def longitudinal_after_train(
    t1: Tensor, t2: Tensor, *, refocusing_angles: Sequence[Value], echo_spacing: Value
) -> tuple[Tensor, Tensor]:
    """Return what a train leaves: mean Mz at its end is ``offset + gain * Mz`` with Mz right after the excitation.

    Parameters as in `echo_amplitude`; all pulses count.

    Returns
    -------
    tuple of Tensor
        ``offset`` and ``gain``, shape of the broadcast inputs.
    """
    n_pulses = len(refocusing_angles)
    transverse_left = decay(echo_spacing, t2)
    longitudinal_left = decay(echo_spacing, t1)
    half_left = decay(echo_spacing / 2, t1)
    # reciprocity: what reaches the end from pulse n on is what comes back when the pulses are played in reverse
    stored = (half_left * torch.ones_like(t2)).unsqueeze(0)
    plus = torch.zeros_like(stored)
    minus = torch.zeros_like(stored)
    offset = 1 - half_left
    for index in range(1, n_pulses + 1):
        # the even set is imaginary where the odd one is real: the same matrix with the opposite sign of the angle
        plus, minus, stored = _refocus(plus, minus, stored, refocusing_angles[n_pulses - index], t1, sign=-1.0)
        if index == n_pulses:
            break
        offset = offset + (1 - longitudinal_left) * stored[0]
        keep = min(index + 1, n_pulses - index)
        back = minus[1:2] if len(minus) > 1 else torch.zeros_like(minus[:1])
        plus = torch.cat([-back, plus])[:keep] * transverse_left
        minus = _grown(minus[1:], keep) * transverse_left
        stored = _grown(stored, keep) * longitudinal_left
    return offset + (1 - half_left) * stored[0], stored[0] * half_left


def echo_train(
    pd: Tensor,
    t1: Tensor,
    t2: Tensor,
    *,
    repetition_time: Value,
    echo_spacing: Value,
    centre_index: int,
    refocusing_angles: Sequence[float],
    flip_angle: Value = torch.pi / 2,
    inversion_time: Value | None = None,
    second_inversion_time: Value | None = None,
    inversion_efficiency: Value = 1.0,
    t2_preparation_time: Value = 0.0,
    refocusing_factor: Value = 1.0,
    transmit_scale: Value = 1.0,
) -> Tensor:
    """Signed signal of a CPMG echo train at steady state: TSE, FLAIR, T1-FLAIR, variable-flip TSE.

    Phase graph of the whole train; only the mean longitudinal magnetisation passes from one cycle to the next
    (perfect crushing). Left out: slice profile (but for the effective refocusing factor), magnetisation transfer,
    diffusion, flow. The function is long by its parameters: they are the sequence's own, and each has its unit here.

    Parameters
    ----------
    pd, t1, t2
        Maps, shape ``(..., z, y, x)``; ``pd`` relative, ``t1`` and ``t2`` in seconds.
    repetition_time, echo_spacing
        Seconds; the train lasts pulses times echo spacing.
    centre_index
        Echo (from 1) at the centre of k-space.
    refocusing_angles
        Nominal angles in radians, one per echo.
    flip_angle
        Nominal excitation angle in radians.
    inversion_time
        Seconds from inversion to excitation; ``None`` without inversion.
    second_inversion_time
        Seconds from a second inversion to the excitation (double inversion recovery), shorter than the first.
    inversion_efficiency
        Mz after the inversion over minus Mz before; not touched by the transmit scale (adiabatic).
    t2_preparation_time
        Seconds of ideal T2 preparation right before the inversion (or the excitation); inside the repetition time.
    refocusing_factor, transmit_scale
        Effective over nominal refocusing angle; actual over nominal angle of all pulses.

    Returns
    -------
    Tensor
        Signal in the unit of ``pd``, shape of the broadcast inputs.

    References
    ----------
    Hennig 1988, J Magn Reson 78:397; Weigel 2015, JMRI 41:266.
    """
    alpha = scaled_angle(flip_angle, transmit_scale, t1)
    scale = scaled_angle(1.0, transmit_scale, t1) * refocusing_factor
    ones = torch.ones_like(t1 * t2 * scale)
    t1, t2 = t1 * ones, t2 * ones
    angles = scaled_angles(refocusing_angles, scale)
    amplitude = echo_amplitude(t1, t2, refocusing_angles=angles, echo_spacing=echo_spacing, centre_index=centre_index)
    offset, gain = longitudinal_after_train(t1, t2, refocusing_angles=angles, echo_spacing=echo_spacing)
    gain = gain * torch.cos(alpha)

    def at_excitation(after_train: Tensor) -> Tensor:
        return longitudinal_at_excitation(
            after_train,
            t1,
            t2,
            repetition_time=repetition_time,
            train_duration=len(angles) * echo_spacing,
            inversion_time=inversion_time,
            second_inversion_time=second_inversion_time,
            inversion_efficiency=inversion_efficiency,
            t2_preparation_time=t2_preparation_time,
        )

    # the cycle is affine in Mz: from nothing, and its slope from two points
    start = at_excitation(offset)
    longitudinal = start / (1 - (at_excitation(offset + gain) - start))
    return pd * longitudinal * torch.sin(alpha) * amplitude


def _grown(states: Tensor, size: int) -> Tensor:
    """Cut or extend to ``size`` orders, zeros added where there are fewer."""
    if len(states) >= size:
        return states[:size]
    return torch.cat([states, states.new_zeros((size - len(states), *states.shape[1:]))])


def _refocus(
    plus: Tensor, minus: Tensor, stored: Tensor, angle: Value, like: Tensor, *, sign: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Refocusing pulse on dephasing, rephasing and longitudinal states."""
    beta = torch.as_tensor(angle, dtype=like.dtype, device=like.device)
    sine = sign * torch.sin(beta)
    cosine = torch.cos(beta)
    turned = torch.sin(beta / 2) ** 2 * (plus - minus) - sine * stored
    return plus - turned, minus + turned, cosine * stored - sine / 2 * (plus - minus)
