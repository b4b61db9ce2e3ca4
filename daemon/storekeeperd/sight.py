"""What a look at a name saw, in one number.

Pure. Owns the layout. An object that is there is described by a number of bits, lowest first: its size in bytes, who
owns it, when it came, whether it is pinned, when it expires, and which process it is tied to. So what one look says
about an object is one value: it is entered, compared and kept as a whole, a plain size is one too, and what an object
does not have costs nothing (a million of them are a million small numbers).
"""

from __future__ import annotations

ABSENT = -1
"""What a look saw: no object of that name."""
UNSEEN = -2
"""What a look saw: nothing can be said (the look failed)."""

SIZE_BITS = 48
OWNER_AT = SIZE_BITS
CREATED_AT = OWNER_AT + 32
LIFE_AT = CREATED_AT + 32
"""What is at this bit or above says how long the object lives; most have nothing there."""
_PINNED_AT = LIFE_AT
_EXPIRES_AT = _PINNED_AT + 1
_PROCESS_AT = _EXPIRES_AT + 44

TIED = 1 << _PROCESS_AT
"""From this number on an object is tied to a process."""
SIZE_MAX = (1 << SIZE_BITS) - 1
WORD_MAX = (1 << 32) - 1
CREATED_S_MAX = WORD_MAX
PID_MAX = (1 << 22) - 1
"""Of a process; the rest of its number is when it was started."""
_JITTER_MS = 1000
EXPIRES_MS_MAX = (1 << 44) - 1  # 557 years


def of(size: int, owner: int, created_s: int, *, pinned: bool = False, expires_ms: int = 0, process: int = 0) -> int:
    """Returns the sight of an object.

    Args:
        size: in bytes.
        owner: user id.
        created_s: seconds since the epoch.
        pinned: whether the daemon must not remove it of its own accord.
        expires_ms: when it expires, in milliseconds of CLOCK_BOOTTIME; 0 for never.
        process: the process it is tied to (see processes.py); 0 for none.
    """
    seen = min(size, SIZE_MAX) | (owner & WORD_MAX) << OWNER_AT | min(max(0, created_s), WORD_MAX) << CREATED_AT
    if pinned or expires_ms or process:
        seen |= pinned << _PINNED_AT | min(expires_ms, EXPIRES_MS_MAX) << _EXPIRES_AT | process << _PROCESS_AT
    return seen


def plain(size: int, owner: int, created_s: int) -> int:
    """Returns as `of` the sight of an object that simply lives on; the numbers are known to be in their bounds."""
    return size | owner << OWNER_AT | created_s << CREATED_AT


def ending(size: int, owner: int, created_s: int, expires_ms: int) -> int:
    """Returns as `plain` the sight of an object that only expires."""
    seen = size | owner << OWNER_AT | created_s << CREATED_AT
    return seen | (expires_ms if expires_ms < EXPIRES_MS_MAX else EXPIRES_MS_MAX) << _EXPIRES_AT


def size_of(seen: int) -> int:
    """Returns the size in bytes; ABSENT or UNSEEN as they are."""
    return seen if seen < 0 else seen & SIZE_MAX


def owner_of(seen: int) -> int:
    """Returns the user id of the owner of an object that is there."""
    return seen >> OWNER_AT & WORD_MAX


def created_of(seen: int) -> int:
    """Returns when an object came that is there: seconds since the epoch."""
    return seen >> CREATED_AT & WORD_MAX


def is_pinned(seen: int) -> bool:
    """Returns whether an object that is there is pinned."""
    return bool(seen >> _PINNED_AT & 1)


def expires_of(seen: int) -> int:
    """Returns when an object expires that is there, as in `of`; 0 for never, and while it is pinned."""
    return 0 if seen >> _PINNED_AT & 1 else seen >> _EXPIRES_AT & EXPIRES_MS_MAX


def process_of(seen: int) -> int:
    """Returns the process that an object is tied to; 0 for none."""
    return seen >> _PROCESS_AT if seen >= 0 else 0


def is_same(seen: int, other: int) -> bool:
    """Returns whether two sights of a name are of one object that nobody has changed.

    When an object of an earlier boot expires is reckoned by the calendar: a little differently every time.
    """
    if seen == other:
        return True
    if seen < 0 or other < 0:
        return False
    mask = EXPIRES_MS_MAX << _EXPIRES_AT
    return seen & ~mask == other & ~mask and abs(expires_of(seen) - expires_of(other)) <= _JITTER_MS
