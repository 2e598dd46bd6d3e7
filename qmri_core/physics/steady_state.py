"""Closed forms: spin echo, spoiled gradient echo, MPRAGE, and the pseudo steady state of a constant echo train."""

from __future__ import annotations

import torch
from torch import Tensor

Value = Tensor | float
"""A setting in SI units: one number, or a tensor that broadcasts against the maps."""


def decay(time: Value, constant: Tensor) -> Tensor:
    """Fraction ``exp(-time / constant)`` that is left after ``time``."""
    return torch.exp(-(time / constant))


def recovered(longitudinal: Value, left: Tensor) -> Tensor:
    """Longitudinal magnetisation after a free recovery that leaves the fraction ``left`` of its deviation from 1."""
    return 1 - (1 - longitudinal) * left


def scaled_angle(angle: Value, scale: Value, like: Tensor) -> Tensor:
    """``angle`` times ``scale`` as a tensor of the type and device of ``like``."""
    return torch.as_tensor(angle, dtype=like.dtype, device=like.device) * scale


def spin_echo(
    pd: Tensor,
    t1: Tensor,
    t2: Tensor,
    *,
    repetition_time: Value,
    echo_time: Value,
    flip_angle: Value,
    refocusing_angle: Value = torch.pi,
    refocusing_factor: Value = 1.0,
    transmit_scale: Value = 1.0,
) -> Tensor:
    r"""Signed signal of a spin echo at steady state, as 2D T1w acquires it.

    .. math::
        S = PD \, M_z \sin\alpha \, \sin^2(\beta/2) \, e^{-TE/T_2}, \quad
        M_z = \frac{\cos\beta \, (1 - e_h) \, e_r + 1 - e_r}{1 - \cos\alpha \cos\beta \, e^{-TR/T_1}}

    with :math:`e_h = e^{-TE/2T_1}` and :math:`e_r = e^{-(TR-TE/2)/T_1}`; exact under perfect crushing.
    Left out: slice profile (but for the effective refocusing factor), magnetisation transfer, diffusion.

    Parameters
    ----------
    pd, t1, t2
        Maps, shape ``(..., z, y, x)``; ``pd`` relative, ``t1`` and ``t2`` in seconds.
    repetition_time, echo_time
        Seconds.
    flip_angle, refocusing_angle
        Nominal excitation and refocusing angle in radians.
    refocusing_factor
        Effective over nominal refocusing angle, from the slice profile.
    transmit_scale
        Actual over nominal angle of all pulses.

    Returns
    -------
    Tensor
        Signal in the unit of ``pd``, shape of the broadcast inputs.
    """
    alpha = scaled_angle(flip_angle, transmit_scale, t1)
    beta = scaled_angle(refocusing_angle, transmit_scale, t1) * refocusing_factor
    half = decay(echo_time / 2, t1)
    rest = decay(repetition_time - echo_time / 2, t1)
    longitudinal = (torch.cos(beta) * (1 - half) * rest + 1 - rest) / (
        1 - torch.cos(alpha) * torch.cos(beta) * decay(repetition_time, t1)
    )
    return pd * longitudinal * torch.sin(alpha) * torch.sin(beta / 2) ** 2 * decay(echo_time, t2)


def spoiled_gradient_echo(
    pd: Tensor,
    t1: Tensor,
    t2: Tensor,
    *,
    repetition_time: Value,
    echo_time: Value,
    flip_angle: Value,
    transmit_scale: Value = 1.0,
) -> Tensor:
    r"""Signed signal of a spoiled gradient echo with ideal spoiling (Ernst).

    .. math:: S = PD \, \sin\alpha \, \frac{1 - e^{-TR/T_1}}{1 - \cos\alpha \, e^{-TR/T_1}} \, e^{-TE/T_2}

    Left out: susceptibility (T2* is below T2; at echo times of 2-5 ms nearly a factor common to all tissues) and
    what RF spoiling leaves of the transverse magnetisation (`qmri_core.physics.spoiling`).

    Parameters
    ----------
    pd, t1, t2
        Maps, shape ``(..., z, y, x)``; ``pd`` relative, ``t1`` and ``t2`` in seconds.
    repetition_time, echo_time
        Seconds.
    flip_angle, transmit_scale
        Nominal angle in radians, and actual over nominal.

    Returns
    -------
    Tensor
        Signal in the unit of ``pd``, shape of the broadcast inputs.

    References
    ----------
    Ernst and Anderson 1966, Rev Sci Instrum 37:93.
    """
    alpha = scaled_angle(flip_angle, transmit_scale, t1)
    left = decay(repetition_time, t1)
    return pd * torch.sin(alpha) * (1 - left) / (1 - torch.cos(alpha) * left) * decay(echo_time, t2)


def mprage(
    pd: Tensor,
    t1: Tensor,
    t2: Tensor,
    *,
    cycle_time: Value,
    inversion_time: Value,
    echo_time: Value,
    flip_angle: Value,
    inner_repetition_time: Value,
    n_readouts: Value,
    centre_index: Value,
    inversion_efficiency: Value = 1.0,
    transmit_scale: Value = 1.0,
) -> Tensor:
    r"""Signed signal of an inversion-prepared train of spoiled gradient echoes (MPRAGE, T1-TFE, IR-SPGR).

    The longitudinal magnetisation passes through inversion, delay, :math:`N` readout pulses and recovery; each is an
    affine map, and the fixed point of the cycle is the steady state. Spoiling is ideal, so pulse :math:`n` sees
    :math:`q^{n-1} M + g (1 - q^{n-1})`, :math:`q = \cos\alpha \, e^{-t_i/T_1}`, :math:`g = (1 - e^{-t_i/T_1})/(1-q)`.
    Left out: susceptibility, and what RF spoiling leaves of the transverse magnetisation. The function is long by its
    parameters: they are the sequence's own, and each has its unit here.

    Parameters
    ----------
    pd, t1, t2
        Maps, shape ``(..., z, y, x)``; ``pd`` relative, ``t1`` and ``t2`` in seconds.
    cycle_time
        Seconds from inversion to inversion.
    inversion_time
        Seconds from the inversion to the readout pulse ``centre_index`` (from 1).
    echo_time, inner_repetition_time
        Seconds.
    flip_angle
        Nominal angle of the readout pulses in radians.
    n_readouts, centre_index
        Pulses per cycle; the one at the centre of k-space.
    inversion_efficiency
        Mz after the inversion over minus Mz before; not touched by the transmit scale (adiabatic).
    transmit_scale
        Actual over nominal readout angle.

    Returns
    -------
    Tensor
        Signal in the unit of ``pd``, shape of the broadcast inputs.

    References
    ----------
    Mugler and Brookeman 1990, MRM 15:152; Deichmann et al. 2000, NeuroImage 12:112.
    """
    alpha = scaled_angle(flip_angle, transmit_scale, t1)
    step = decay(inner_repetition_time, t1)
    q = torch.cos(alpha) * step
    plateau = (1 - step) / (1 - q)
    delay = inversion_time - (centre_index - 1) * inner_repetition_time
    delay_left = decay(delay, t1)
    rest_left = decay(cycle_time - delay - n_readouts * inner_repetition_time, t1)
    all_pulses = q**n_readouts
    # Mz before the inversion is gain * Mz + offset, once round the cycle
    gain = -inversion_efficiency * delay_left * all_pulses * rest_left
    offset = recovered((1 - delay_left) * all_pulses + plateau * (1 - all_pulses), rest_left)
    before = offset / (1 - gain)
    first = recovered(-inversion_efficiency * before, delay_left)
    pulses = q ** (centre_index - 1)
    longitudinal = first * pulses + plateau * (1 - pulses)
    return pd * longitudinal * torch.sin(alpha) * decay(echo_time, t2)


def longitudinal_at_excitation(
    after_train: Tensor,
    t1: Tensor,
    t2: Tensor,
    *,
    repetition_time: Value,
    train_duration: Value,
    inversion_time: Value | None = None,
    second_inversion_time: Value | None = None,
    inversion_efficiency: Value = 1.0,
    t2_preparation_time: Value = 0.0,
) -> Tensor:
    """Mz at the excitation when the train left ``after_train``: recovery, then T2 preparation and inversions, if any.

    All times in seconds, as in `qmri_core.physics.phase_graph.echo_train`; ``second_inversion_time`` runs from a second
    inversion to the excitation (double inversion recovery).
    """
    rest = repetition_time - train_duration - t2_preparation_time - (0.0 if inversion_time is None else inversion_time)
    longitudinal = recovered(after_train, decay(rest, t1))
    if isinstance(t2_preparation_time, Tensor) or t2_preparation_time > 0:
        longitudinal = longitudinal * decay(t2_preparation_time, t2)
    if inversion_time is None:
        return longitudinal
    if second_inversion_time is None:
        return recovered(-inversion_efficiency * longitudinal, decay(inversion_time, t1))
    second = recovered(-inversion_efficiency * longitudinal, decay(inversion_time - second_inversion_time, t1))
    return recovered(-inversion_efficiency * second, decay(second_inversion_time, t1))
