"""Names of the time zones that jobs may have: the zones of the tzdata package, except `Factory`.

Prefect checks a zone with `zoneinfo`, but its scheduler looks the zone up in pytz, and fails for
`Factory` and for names that only the files of one machine define (`localtime`, `posix/…`).
"""

from __future__ import annotations

import difflib
import re
from functools import cache
from pathlib import Path

import tzdata  # type: ignore[import-untyped]

MAX_LENGTH = 100
"""Maximum length of a name to look up, in characters; the longest zone name has 32."""

_OFFSET = re.compile(r"(?:utc|gmt)?([+-])0?(\d|1[0-4])(?::?(\d\d))?", re.ASCII | re.IGNORECASE)
_WITHOUT_MACHINE = re.compile(r"(?:posix|right)/")


@cache
def names() -> frozenset[str]:
    """Return the names, which are case-sensitive."""
    listed = Path(tzdata.__file__).with_name("zones").read_text("utf-8")
    return frozenset(listed.split()) - {"Factory"}


def of_machine(name: str | None) -> str:
    """Return the legal name for the name of a machine's zone; `UTC` if there is none."""
    plain = _WITHOUT_MACHINE.sub("", name or "", count=1)
    return plain if plain in names() else "UTC"


def hint(name: str) -> str:
    """Return what to write in place of an unknown name: the nearest names, if there are any."""
    name = name[:MAX_LENGTH]
    if offset := _OFFSET.fullmatch(name.replace(" ", "")):
        return _for_offset(*offset.groups())
    lower = {known.lower(): known for known in sorted(names())}
    typed = name.strip().replace(" ", "_").lower()
    if typed in lower:
        return f"did you mean {lower[typed]}?"
    cities: dict[str, str] = {}
    for known in sorted(names()):
        cities.setdefault(known.rpartition("/")[2].lower(), known)
    near = [lower[match] for match in difflib.get_close_matches(typed, lower, n=3, cutoff=0.7)]
    by_city = difflib.get_close_matches(typed.rpartition("/")[2], cities, n=3, cutoff=0.75)
    near += [cities[match] for match in by_city if cities[match] not in near]
    if near:
        return f"did you mean {' or '.join(near[:3])}?"
    return "write an IANA name such as Europe/Berlin or UTC"


def _for_offset(sign: str, hours: str, minutes: str | None) -> str:
    """Return the hint for an offset such as `GMT+2`; in `Etc/GMT-2`, POSIX inverts the sign."""
    city = "write the zone of a city, such as Europe/Berlin"
    if int(minutes or 0) or int(hours) > (14 if sign == "+" else 12):
        return city
    if int(hours) == 0:
        return f"{city}, or UTC"
    ahead, inverted = ("ahead of", "-") if sign == "+" else ("behind", "+")
    unit = "hour" if int(hours) == 1 else "hours"
    return f"{city}, or Etc/GMT{inverted}{hours}, which is always {hours} {unit} {ahead} UTC"
