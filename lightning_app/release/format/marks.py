"""What a file system says of files beside their content: rights, owners, links, time stamps, extended attributes."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_FEW = 8  # files with other marks that are told one by one
_NO_ATTRIBUTES = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # as FUSE and network file systems say it
# attributes that a system gives to every file by itself: they say next to nothing while all files have the same and
# none has room for a face
_CONTEXT, _ACL = "security.selinux", "system.nfs4_acl"
_SYSTEMS_OWN = (_CONTEXT, _ACL)
_LONGEST = {_CONTEXT: 128, _ACL: 256}  # bytes; of an ACL for owner, group and everyone 80
_CATEGORIES = rb"(:c[0-9]{1,4}([.,]c[0-9]{1,4})*)?"
_LEVEL = rb"s[0-9]{1,2}" + _CATEGORIES
_CONTEXT_FORM = re.compile(  # user:role:type[:level[-level]]; the kernel ends it with a zero byte
    rb"[A-Za-z0-9_]{1,32}:[A-Za-z0-9_]{1,32}:[A-Za-z0-9_]{1,64}(:" + _LEVEL + rb"(-" + _LEVEL + rb")?)?\0?"
)
_NAMESPACES = {"user", "system", "security", "trusted"}
_SPECIAL = {stat.S_ISUID: "setuid", stat.S_ISGID: "setgid", stat.S_ISVTX: "sticky"}
_COPY = "copy it with `cp -r --preserve=mode,timestamps`"
_ACL_NOTE = f"{_ACL} was not read: anything may stand in its bytes, {_LONGEST[_ACL]} at most"
OF_TIMES = "time stamp"  # in findings of these alone


@dataclass(frozen=True, order=True)
class Finding:
    """Something that a release must not have.

    Attributes:
        file: its path in the release; `.` is the folder itself.
        what: in words; neither a name of the raw set nor what was hidden.
    """

    file: str
    what: str


class Marks:
    """The marks of a release's files and folders.

    Its files have one set of rights and one owner, so have its folders; none has a special bit, no file another name
    (hard link), and all bear one time stamp. Which rights and owner they are is free: an archive or another system
    changes them all alike. What a system gives to every file by itself (SELinux's context, NFS's access list) may be
    there, short and all alike. Of access times, numbers of inodes and the order of names in a folder nothing is
    checked.

    Args:
        timestamp: that all bear, in seconds; None does not compare them.

    Attributes:
        notes: what the file system does not tell.
    """

    def __init__(self, timestamp: int | None) -> None:
        self.notes: list[str] = []
        self._attributes_told = True  # until the system says that it tells of none
        self._time = None if timestamp is None else timestamp * 10**9
        self._other: list[str] = []  # names of what bears another time stamp
        self._seen: dict[
            str, dict[object, list[str]]
        ] = {}  # by what is compared, by value: the names, or a few
        self._counts: dict[str, Counter[object]] = {}

    def of(self, name: str, path: str, facts: os.stat_result) -> Iterator[Finding]:
        """Look at one of them, and remember what it has to have in common with the others.

        Args:
            name: its path in the release; `.` is the folder itself, whose rights and owner are free.
            path: where it is.
            facts: of it, no link followed.
        """
        if self._time is not None and facts.st_mtime_ns != self._time:
            self._other.append(name)
        is_folder = stat.S_ISDIR(facts.st_mode)
        kind = "folders" if is_folder else "files"
        if name != ".":
            bits = [word for bit, word in _SPECIAL.items() if facts.st_mode & bit]
            if bits:
                yield Finding(name, f"has special rights ({', '.join(bits)})")
            if os.name == "posix":
                self._count(f"rights of {kind}", f"{facts.st_mode & 0o777:03o}", name)
                self._count("owners", (facts.st_uid, facts.st_gid), name)
        if not is_folder and facts.st_nlink > 1:
            yield Finding(
                name, f"has {facts.st_nlink} names (hard links): make a copy of the release, and audit that"
            )
        yield from self._attributes(name, path, kind)

    def _attributes(self, name: str, path: str, kind: str) -> Iterator[Finding]:
        if not self._attributes_told:
            return
        if not hasattr(os, "listxattr"):
            self._none_told("Python lists none on this system")
            return
        try:
            found = os.listxattr(path, follow_symlinks=False)
            own = {key: os.getxattr(path, key, follow_symlinks=False) for key in found if key in _SYSTEMS_OWN}
        except OSError as error:
            if error.errno in _NO_ATTRIBUTES:
                self._none_told("this file system keeps none")
            else:
                yield Finding(name, f"its extended attributes cannot be read ({error.strerror})")
            return
        extra = [key for key in found if key not in own]
        if extra:  # their names are not repeated, they may say something
            spaces = sorted({key.partition(".")[0] for key in extra} & _NAMESPACES)
            where = ", ".join(spaces) or "of no known namespace"
            yield Finding(name, f"has {len(extra)} extended attributes ({where})")
        for key in _SYSTEMS_OWN:
            value = own.get(key)
            fault = None if value is None else _fault(key, value)
            if fault is not None:
                yield Finding(name, fault)
            elif name != ".":
                self._count(f"{key} of {kind}", value, name)
        if _ACL in own and _ACL_NOTE not in self.notes:
            self.notes.append(_ACL_NOTE)

    def _none_told(self, why: str) -> None:
        self._attributes_told = False
        self.notes.append(f"extended attributes were not checked: {why}")

    def _count(self, what: str, value: object, name: str) -> None:
        self._counts.setdefault(what, Counter())[value] += 1
        names = self._seen.setdefault(what, {}).setdefault(value, [])
        if len(names) <= _FEW:
            names.append(name)

    def differing(self) -> Iterator[Finding]:
        """Yield those whose marks differ from the others'; many are one finding."""
        if len(self._other) <= _FEW:
            what = f"its {OF_TIMES} is not the one that every released file bears"
            yield from (Finding(name, what) for name in self._other)
        else:
            yield Finding(
                ".",
                f"{len(self._other)} files and folders bear other {OF_TIMES}s than every released file does, as after "
                "`cp -r`: copy with `cp -a`, or audit with --ignore-times",
            )
        for what, counts in self._counts.items():
            most, *others = counts.most_common()
            odd = sum(count for _, count in others)
            if 0 < odd <= _FEW:
                names = (name for value, _ in others for name in self._seen[what][value])
                yield from (
                    Finding(name, f"differs in the {what} from the {most[1]} others") for name in names
                )
            elif odd:
                yield Finding(".", f"has {len(counts)} kinds of {what}, there must be one: {_remedy(what)}")


def _fault(key: str, value: bytes) -> str | None:
    """Return why a value is none that a system sets by itself; None where it may be. It is not repeated."""
    if len(value) > _LONGEST[key]:
        return f"its {key} has {len(value)} bytes, more than {_LONGEST[key]}: {_COPY}"
    if key == _CONTEXT and _CONTEXT_FORM.fullmatch(value) is None:
        return f"its {key} is no context (user:role:type[:level]): {_COPY}"
    return None


def _remedy(what: str) -> str:
    if what.startswith("rights"):
        return "give `chmod -R u=rwX,go=rX` to the folder"
    return "give `chown -R` to the folder" if what == "owners" else _COPY
