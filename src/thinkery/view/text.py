"""Text for pages: what models wrote, made harmless, and numbers as people read them.

Everything a model or a data set wrote is hostile. Jinja escapes its HTML; `clean` shows what would act instead of
being read: terminal escapes and other control characters, marks that turn the direction of text, halves of characters.
"""

from __future__ import annotations

import math
import re
import time
from typing import Any

from markupsafe import Markup

from thinkery.pipeline.progress import duration

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
NOTHING = "–"


def clean(value: Any) -> Any:
    """A template's value with everything shown that would act: ESC as ␛, a direction mark as its code."""
    return _CONTROLS.sub(_shown, value) if isinstance(value, str) and not isinstance(value, Markup) else value


def number(value: float | None) -> str:
    """Three figures, or as many as a whole number has: 0.0123, 1.5, 48,210."""
    if value is None:
        return NOTHING
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def signed(value: float | None) -> str:
    """A number with its sign, a true minus: +0.56, −0.44, 0."""
    if value is None:
        return NOTHING
    return ("+" if value > 0 else "−" if value < 0 else "") + number(abs(value))


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage: 97.9 %."""
    return NOTHING if value is None else f"{100 * value:.{digits}f} %"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, with its sign: −2.4."""
    return NOTHING if value is None else ("+" if value > 0 else "−" if value < 0 else "±") + f"{abs(100 * value):.1f}"


def large(value: float | None) -> str:
    """A large count or quantity with its prefix: 3.16 T."""
    if not value:
        return NOTHING
    power = min(5, int(math.log10(abs(value)) // 3))
    return f"{value / 1000**power:.3g} {' kMGTP'[power]}".strip()


def moment(seconds: float | None) -> str:
    """A time of day with its date, UTC."""
    return NOTHING if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return "\ufffd" if code < 0xA0 or 0xD800 <= code <= 0xDFFF else f"[U+{code:04X}]"


FILTERS = {
    "number": number,
    "signed": signed,
    "percent": percent,
    "points": points,
    "large": large,
    "moment": moment,
    "duration": lambda seconds: duration(seconds) if seconds else NOTHING,
}
"""What templates may call, by name."""
