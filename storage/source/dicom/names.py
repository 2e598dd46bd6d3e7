"""Words of series names that are evidence: each becomes a coded trait, and no text is kept.

People name a series in their own language and shorthand. A name never says what a series is; it only weighs where
numbers leave something open.
"""

from __future__ import annotations

import re
from functools import lru_cache

_LONGEST = 200
"""Characters of a name that are read; the standard allows 64."""

_LOCALIZER = re.compile(r"locali[sz]er|scout|survey|3[ -]?(plane|pl\b)|smartbrain|\bloc\b", re.IGNORECASE)
_ANGIOGRAPHY = re.compile(r"(?<![a-z])(tof|mra|mrv|angio\w*|venogra\w*)(?![a-z])", re.IGNORECASE)
_FLAIR = re.compile(r"flair|(?<![a-z])(dark[ -]?fluid|tirm|irfse|fluid[ -]?att\w*)(?![a-z])", re.IGNORECASE)
_CALIBRATION = re.compile(
    r"(?<![a-z])(calib\w*|cal[ -]?(scan|head)?|asset|sense[ -]?ref\w*|ref[ -]?scan|coil\w*|b[01][ -]?map\w*|"
    r"field[ -]?map\w*|gre[ -]?field\w*|prescan\w*|shim\w*|afi|dream|bloch\w*|quick[ -]?cal\w*)(?![a-z])",
    re.IGNORECASE,
)

_MEDIUM = (
    r"(?:contrast\w*|kontras\w*|contraste?\w*|km|gd\w*|gad\w*|gbca|injecti?on|inj\w*|mdc|civ|c|kl|cm|medio\w*|"
    r"magnevist|dotarem|prohance|multihance|omniscan|clariscan|primovist|tehoste\w*)"
)
_WITHOUT = (
    r"(?:without|w/o|wo|w\.o\.|no|non|ohne|o\.?|vor|before|sans|avant|sin|antes(?: de)?|senza|prima(?: di)?|sem|"
    r"zonder|voor|uden|utan|uten|f\u00f8r|innan|bez|przed|pred|ilman)"
)
_AFTER = (
    r"(?:with|w/|w|mit|nach|after|post|avec|apr[e\u00e8]s|con|"
    r"despu[e\u00e9]s(?: de)?|dopo(?: di)?|com|p[o\u00f3]s|ap[o\u00f3]s|met|na|"
    r"med|efter|etter|po|z|s|j\u00e4lkeen|m\.?|n\.?)"
)
# What says that no agent was given; taken out of the name before the other words are looked for.
_NATIVE = re.compile(
    rf"(?<!\w){_WITHOUT}[ .\-]*(?:i\.?v\.?[ .\-]*)?{_MEDIUM}(?!\w)|"
    rf"(?<!\w)pre[ .\-]?(?:{_MEDIUM})?(?!\w|[ \-]?op)|"
    r"(?<!\w)(?:nativ\w*|native|nat|unenhanced|non[ -]?enhanced|nonenhanced|noncontrast|plain|basale?|"
    r"kontrasts[i\u0131]z)(?!\w)|"
    r"\u5e73\u626b|\u5e73\u6383|\u5358\u7d14|\u975e\u9020\u5f71|\u672a\u589e\u5f37|"
    r"(?<![\w+])c-(?!\w)|(?<!\w)[-\u2013]c(?!\w)",
    re.IGNORECASE,
)  # fmt: skip
# "high contrast" and the like speak of the image.
_NO_AGENT = re.compile(
    r"(?:high|low|hi|soft|multi|phase|tissue|best|good|image|susceptibility|magneti[sz]ation|dual|single)"
    r"[ -]?contrast\w*|"
    r"contrast[ -]?(?:opt\w*|test)|pre[ -]?op\w*",
    re.IGNORECASE,
)  # fmt: skip
_AGENT = re.compile(
    rf"(?<!\w){_AFTER}[ .\-]*(?:i\.?v\.?[ .\-]*)?{_MEDIUM}(?!\w)|"
    rf"\+ ?{_MEDIUM}(?!\w)|(?<!\w)(?:c|gd|gad|km)\+|"
    r"(?<!\w)(?:km|gd|gado\w*|gad|gbca|ce|mdc|contrast|kontras\w*|contraste?|enh|"
    r"enhanced(?![ -]*(?:conv|mr|dicom|image|multi|format))|inject[e\u00e9]e?|injection|"
    r"kontrastl[i\u0131]|magnevist|dotarem|prohance|multihance|omniscan|clariscan|primovist|tehoste\w*)(?!\w)|"
    r"(?<!\w)post(?:contrast|gad\w*|gd|km|kontrast\w*|inj\w*)(?!\w)|"
    r"(?<!\w)post(?!\w)(?![ .\-]*(?:"
    r"op|fossa|proc|mort|traum|stim|tx|treat|ther|rad|surg|biop|exer|erior|rt|ct|chemo|task|rest))|"
    r"(?<!\w)t1w?(?:c|ce|gd|gad|km|post)(?!\w)|(?<!\w)(?:ivi|pg)(?!\w)|"
    r"\u9020\u5f71|\u589e\u5f3a|\u589e\u5f37|\uc870\uc601|\u043a\u043e\u043d\u0442\u0440\u0430\u0441\u0442",
    re.IGNORECASE,
)  # fmt: skip


@lru_cache(maxsize=256)  # all files of a series ask the same
def traits_of_names(description: str, protocol: str) -> frozenset[str]:
    """Coded traits of the names of a series and its protocol; see `storage.source.dicom.frames.Frame`.

    The protocol's name often stands for a whole examination, so that it tells of an agent only where the name of the
    series says nothing about it.
    """
    description, protocol = _spaced(description), _spaced(protocol)
    named = f"{description} {protocol}"
    patterns = (
        ("named_localizer", _LOCALIZER), ("named_angiography", _ANGIOGRAPHY), ("named_flair", _FLAIR),
        ("named_calibration", _CALIBRATION),
    )  # fmt: skip
    found = {trait for trait, pattern in patterns if pattern.search(named)}
    return frozenset(found | (_agent_in(description) or _agent_in(protocol)))


def _spaced(text: str) -> str:
    return text[:_LONGEST].replace("_", " ").replace("^", " ")


def _agent_in(text: str) -> set[str]:
    """``named_agent`` and ``named_native``; both where a name speaks of both."""
    text = _NO_AGENT.sub(" ", text)
    found = {"named_native"} if _NATIVE.search(text) else set()
    return found | ({"named_agent"} if _AGENT.search(_NATIVE.sub(" | ", text)) else set())
