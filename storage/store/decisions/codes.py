"""The words of a decision: allow-lists alone, so that no text of a person can enter the store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum

RATER = re.compile(r"r[0-9]{1,3}")
"""Code of a rater: who it is stands in a list of the site's own. No name and no initials fit."""


class DecisionError(ValueError):
    """A decision that cannot be made: a word that is none of the codes, or nothing to decide on."""


class Subject(StrEnum):
    """What a decision is on."""

    SESSION = "session"
    GROUP = "group"


class Verdict(StrEnum):
    """What a person says."""

    ACCEPT = "accept"
    REJECT = "reject"
    UNSURE = "unsure"
    EXCLUDE = "exclude"
    ACKNOWLEDGE = "acknowledge"
    UNDO = "undo"


class Scope(StrEnum):
    """What of it the verdict is on, and so which changes open it again; see `RESTS_ON`."""

    SESSION = "session"
    IMAGES = "images"
    MAPS = "maps"
    FAILURE = "failure"


class Ground(StrEnum):
    """Why: the coded reasons."""

    LOOKS_RIGHT = "looks_right"
    MOTION = "motion"
    ARTEFACT = "artefact"
    NOISE = "noise"
    ALIGNMENT = "alignment"
    MASK = "mask"
    SEGMENTATION = "segmentation"
    WRONG_CONTRAST = "wrong_contrast"
    CONTRAST_AGENT = "contrast_agent"
    LESION = "lesion"
    ATROPHY = "atrophy"
    CHILD = "child"
    SURGERY = "surgery"
    IMPLANT = "implant"
    PHANTOM = "phantom"
    WRONG_HEADER = "wrong_header"
    SCALE = "scale"
    VALUES = "values"
    DUPLICATE = "duplicate"
    PROTOCOL = "protocol"
    CONSENT = "consent"
    KNOWN = "known"
    MISTAKE = "mistake"
    OTHER = "other"


MEANINGS: Mapping[Verdict | Scope | Ground, str] = {
    Verdict.ACCEPT: "It was looked at, and its maps count, also where their status is failed for closure.",
    Verdict.REJECT: "It does not count in statistics, exports and reports; its status stays.",
    Verdict.UNSURE: "It was looked at, and another person has to decide; until then nobody has.",
    Verdict.EXCLUDE: "The session or group counts nowhere; reversible, where `forget` is not.",
    Verdict.ACKNOWLEDGE: "The failure is known: a run does not end as failed because of it.",
    Verdict.UNDO: "The rater's last decision on the same scope is taken back.",
    Scope.SESSION: "The session or group as such; opened again when the session's input changes.",
    Scope.IMAGES: "Its images; opened again when its input or the preprocessing changes.",
    Scope.MAPS: "Its maps; opened again when its images, the weights or the calibration change.",
    Scope.FAILURE: "That it failed, and why; opened again when it is tried again, or fails for another reason.",
    Ground.LOOKS_RIGHT: "Nothing wrong is seen.",
    Ground.MOTION: "The person moved.",
    Ground.ARTEFACT: "Ghosts, metal, wrapping, or another artefact.",
    Ground.NOISE: "Too much noise.",
    Ground.ALIGNMENT: "The series do not lie on each other.",
    Ground.MASK: "The brain mask is wrong.",
    Ground.SEGMENTATION: "Tissues are mistaken for each other.",
    Ground.WRONG_CONTRAST: "An image is not what it is called.",
    Ground.CONTRAST_AGENT: "After a contrast agent.",
    Ground.LESION: "A tumour, a stroke, haemorrhage or many lesions.",
    Ground.ATROPHY: "Much less brain than is usual.",
    Ground.CHILD: "The person is a child.",
    Ground.SURGERY: "A resection, or another state after surgery.",
    Ground.IMPLANT: "An implant or other metal.",
    Ground.PHANTOM: "It is no person.",
    Ground.WRONG_HEADER: "A number in the header cannot be right.",
    Ground.SCALE: "A series is on another scale than its group.",
    Ground.VALUES: "The values of the maps cannot be right.",
    Ground.DUPLICATE: "It is in the cohort under another name.",
    Ground.PROTOCOL: "The protocol is none of the study's.",
    Ground.CONSENT: "It may not be used in this study; to remove it use `forget`.",
    Ground.KNOWN: "It is known, and nothing can be done.",
    Ground.MISTAKE: "A decision was made by mistake.",
    Ground.OTHER: "Another reason, in the rater's own list.",
}
"""What each code means."""

DEFAULT_SCOPE: Mapping[Verdict, Scope] = {
    Verdict.ACCEPT: Scope.MAPS,
    Verdict.REJECT: Scope.MAPS,
    Verdict.UNSURE: Scope.MAPS,
    Verdict.EXCLUDE: Scope.SESSION,
    Verdict.ACKNOWLEDGE: Scope.FAILURE,
    Verdict.UNDO: Scope.MAPS,
}
_RATED = {Verdict.ACCEPT, Verdict.REJECT, Verdict.UNSURE}
_ALLOWED: Mapping[Scope, set[Verdict]] = {
    Scope.SESSION: {Verdict.EXCLUDE, Verdict.UNDO},
    Scope.IMAGES: {*_RATED, Verdict.UNDO},
    Scope.MAPS: {*_RATED, Verdict.UNDO},
    Scope.FAILURE: {Verdict.ACKNOWLEDGE, Verdict.UNDO},
}

_IMAGES_REST_ON = ("input_digest", "preprocessing_version")
_MAPS_REST_ON = (*_IMAGES_REST_ON, "checkpoint_digest", "calibration_version")
RESTS_ON: Mapping[Scope, tuple[str, ...]] = {
    Scope.SESSION: ("input_digest",),
    Scope.IMAGES: _IMAGES_REST_ON,
    Scope.MAPS: _MAPS_REST_ON,
    Scope.FAILURE: (*_MAPS_REST_ON, "failure"),
}
"""What a decision of each scope was made on: when one of these differs, the decision is open again."""
DIGESTS = RESTS_ON[Scope.FAILURE]
"""All that a decision keeps of what it was made on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One row of ``/decisions``; its place in the table is its order, and its commit has the time.

    Parameters
    ----------
    subject
        Pseudonym of a session, or the key of a group.
    grounds
        Coded reasons, at most one of each.
    rater
        Code of the person who decides, as `RATER`.
    input_digest, preprocessing_version, checkpoint_digest, calibration_version, failure
        What the subject rested on; of a group those of its sessions. ``failure`` is reason and stage.

    Raises
    ------
    DecisionError
        If a word is none of the codes, or the verdict is none of the scope's.
    """

    kind: Subject
    subject: str
    scope: Scope
    verdict: Verdict
    grounds: tuple[Ground, ...] = ()
    rater: str
    input_digest: str = ""
    preprocessing_version: str = ""
    checkpoint_digest: str = ""
    calibration_version: str = ""
    failure: str = field(default="")

    def __post_init__(self) -> None:
        if not RATER.fullmatch(self.rater):
            raise DecisionError("the code of a rater is r and a number of up to three digits, such as r7; no names")
        if self.verdict not in _ALLOWED[self.scope]:
            allowed = ", ".join(sorted(_ALLOWED[self.scope]))
            raise DecisionError(f"{self.verdict} cannot be said of the scope {self.scope}, but {allowed}")
        if self.kind is Subject.GROUP and self.scope is Scope.FAILURE:
            raise DecisionError("a failure is acknowledged session by session, not for a group")

    @property
    def made_on(self) -> dict[str, str]:
        """What it was made on, as far as its scope rests on it."""
        return {name: getattr(self, name) for name in RESTS_ON[self.scope]}


FIELDS = tuple(entry.name for entry in fields(Decision))


def decision_of(texts: Mapping[str, str]) -> Decision:
    """A decision from its texts, as tables and files hold them.

    Raises
    ------
    DecisionError
        If a text is none of the codes; the text is not repeated, since it may be anything.
    """
    grounds = [text for text in texts["grounds"].split(",") if text]
    return Decision(
        kind=Subject(word("kind", texts["kind"], Subject)),
        subject=texts["subject"],
        scope=Scope(word("scope", texts["scope"], Scope)),
        verdict=Verdict(word("verdict", texts["verdict"], Verdict)),
        grounds=tuple(Ground(word("reason", text, Ground)) for text in dict.fromkeys(grounds)),
        rater=texts["rater"],
        **{name: texts[name] for name in DIGESTS},
    )


def texts_of(decision: Decision) -> dict[str, str]:
    """The texts of a decision."""
    return {name: str(getattr(decision, name)) for name in FIELDS if name != "grounds"} | {
        "grounds": ",".join(decision.grounds)
    }


def word(what: str, text: str, codes: type[StrEnum]) -> str:
    """The text, if it is one of the codes.

    Raises
    ------
    DecisionError
        If it is none.
    """
    if text not in set(codes):
        raise DecisionError(f"that {what} is none of the codes: {', '.join(codes)}")
    return text
