"""What a simulated scan suffers from, by name."""

from __future__ import annotations

from enum import StrEnum


class Effect(StrEnum):
    """One departure from an ideal scan; without any, series are noise-free, motion-free and of uniform fields."""

    NOISE = "noise"
    """Rician noise."""
    FIELDS = "fields"
    """Transmit and receive fields of a 3 T head."""
    MOTION = "motion"
    """The head lies a little differently in each series."""
    LESIONS = "lesions"
    """White-matter lesions in four of ten people."""
    SLICE_PROFILE = "slice-profile"
    """Refocusing angles of 2D series are lower across the slice than nominal (one effective factor per series)."""
    NORMALISATION = "normalisation"
    """Surface-coil normalisation where the protocol says so; without it, the whole receive field stays."""
    MAGNETIZATION_TRANSFER = "magnetization-transfer"
    """Other slices' pulses saturate the bound pool of white and grey matter in 2D echo trains."""
    RF_SPOILING = "rf-spoiling"
    """Gradient echoes have the steady state that RF spoiling leaves, not that of ideal spoiling."""
    RINGING = "ringing"
    """k-space is truncated along the phase-encoding direction and filled with zeros, on half of the series."""
    GHOSTS = "ghosts"
    """Periodic motion during the scan makes ghosts along the phase-encoding direction, on one series in four."""
    TUMOURS = "tumours"
    """A tumour with oedema in one person of eight."""
    AGEING = "ageing"
    """Ventricles, sulci, cortex and T1 follow the person's age."""
    VESSELS = "vessels"
    """Vessels, dura and choroid plexus are there; they and lesions take up agent in a T1w that follows one."""
    CONTRAST_AGENT = "contrast-agent"
    """Every T1w follows a contrast agent of which no header says anything; brings the vessels."""


DEFAULT_EFFECTS = frozenset(
    {Effect.NOISE, Effect.FIELDS, Effect.MOTION, Effect.LESIONS, Effect.SLICE_PROFILE, Effect.NORMALISATION}
)
"""What a cohort has if nothing is asked for."""
BY_NAME_ONLY = frozenset({Effect.VESSELS, Effect.CONTRAST_AGENT})
"""Effects that ``all`` does not bring: what came later, and what a native scan does not have."""


def effects_of(text: str) -> frozenset[Effect]:
    """Effects by names separated by commas; ``default``, ``all``, ``none``; ``+name`` and ``-name`` change the default.

    ``all`` is all but `BY_NAME_ONLY`.

    Raises
    ------
    ValueError
        If a name is not known.
    """
    named = {"default": DEFAULT_EFFECTS, "all": frozenset(Effect) - BY_NAME_ONLY, "none": frozenset[Effect]()}
    parts = [part.strip() for part in text.split(",") if part.strip()]
    chosen: set[Effect] = set(DEFAULT_EFFECTS) if parts and all(part[0] in "+-" for part in parts) else set()
    for part in parts:
        if part in named:
            chosen |= named[part]
        elif part.startswith("-"):
            chosen -= {_effect(part[1:])}
        else:
            chosen |= {_effect(part.removeprefix("+"))}
    return frozenset(chosen)


def _effect(name: str) -> Effect:
    try:
        return Effect(name)
    except ValueError:
        raise ValueError(f"effect {name!r} is none of default, all, none, {', '.join(Effect)}") from None
