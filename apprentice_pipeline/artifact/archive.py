"""The container of a `.kolm`: a zip that has exactly one spelling, read as hostile input.

Belongs here: writing the deterministic zip, taking one apart. Does not: what members mean.
Promise: the same members give the same bytes (sorted, fixed times, stored), and `read_archive`
returns members only of a file that is, byte for byte, what `write_archive` makes of them; so no
two readers can disagree about it. Every defect has its own message.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Mapping

from apprentice_pipeline.artifact.members import (
    MAX_ARTIFACT_BYTES,
    MAX_MEMBERS,
    MEMBERS,
    REQUIRED,
)
from apprentice_pipeline.errors import ArtifactError

_EPOCH = (1980, 1, 1, 0, 0, 0)
_END = struct.Struct("<4s4H2LH")
_END_MAGIC = b"PK\x05\x06"
_ZIP64_COUNT = 0xFFFF
_ZIP64_SIZE = 0xFFFFFFFF
_ENCRYPTED = 0x1 | 0x40 | 0x2000


def write_archive(members: Mapping[str, bytes]) -> bytes:
    """The deterministic zip of `members`: sorted by name, stored, times and modes fixed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, date_time=_EPOCH)
            entry.create_system = 3
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, members[name])
    return buffer.getvalue()


def read_archive(data: bytes) -> dict[str, bytes]:
    """The members of `data` by name, sorted.

    Raises: ArtifactError for anything that `write_archive` would not have written, and for
    unknown, duplicate, missing or oversized members.
    """
    _check_frame(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check_entries(entries)
            members = {entry.filename: _read(archive, entry) for entry in entries}
    except (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError, EOFError) as error:
        raise ArtifactError(f"the zip directory is damaged: {type(error).__name__}") from None
    for name in REQUIRED:
        if name not in members:
            raise ArtifactError(f"member {name} is missing")
    if write_archive(members) != data:
        raise ArtifactError("the zip is not in the deterministic form (order, times or headers)")
    return members


def _check_frame(data: bytes) -> None:
    """Bounds, and nothing before, behind or between: zip readers are lax about all three."""
    if len(data) > MAX_ARTIFACT_BYTES:
        raise ArtifactError(f"the file has {len(data)} bytes, more than {MAX_ARTIFACT_BYTES}")
    position = data.rfind(_END_MAGIC, max(0, len(data) - 0xFFFF - _END.size))
    if position < 0 or len(data) - position < _END.size:
        raise ArtifactError(
            "the file is not a zip, or its end is cut off", remedy="fetch the whole file again"
        )
    fields = _END.unpack_from(data, position)
    count, size, offset, comment = fields[4], fields[5], fields[6], fields[7]
    if count == _ZIP64_COUNT or _ZIP64_SIZE in (size, offset):
        raise ArtifactError("the zip uses the zip64 form")
    if comment:
        raise ArtifactError("the zip carries a comment")
    if trailing := len(data) - position - _END.size:
        raise ArtifactError(f"{trailing} bytes follow the end of the zip")
    if prepended := position - size - offset:
        if prepended < 0:
            raise ArtifactError("the zip directory lies outside the file")
        raise ArtifactError(f"{prepended} bytes stand before the zip")
    if count > MAX_MEMBERS:
        raise ArtifactError(f"the zip has {count} members, more than {MAX_MEMBERS}")


def _check_entries(entries: list[zipfile.ZipInfo]) -> None:
    seen: set[str] = set()
    for entry in entries:
        name = entry.orig_filename
        shown = repr(name[:80])
        if name in seen:
            raise ArtifactError(f"member {shown} stands twice in the zip")
        seen.add(name)
        _check_name(name, shown)
        _check_kind(entry, shown)


def _check_name(name: str, shown: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name:
        raise ArtifactError(f"member {shown} escapes the artifact's folder")
    if name not in MEMBERS:
        raise ArtifactError(f"member {shown} is unknown; an artifact holds no other files")


def _check_kind(entry: zipfile.ZipInfo, shown: str) -> None:
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise ArtifactError(f"member {shown} is a symbolic link")
    if entry.flag_bits & _ENCRYPTED:
        raise ArtifactError(f"member {shown} is encrypted")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ArtifactError(f"member {shown} is compressed; members are stored as they are")
    limit = MEMBERS[entry.filename]
    if entry.file_size > limit:
        raise ArtifactError(f"member {shown} has {entry.file_size} bytes, more than {limit}")


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(entry)
    except zipfile.BadZipFile:
        raise ArtifactError(
            f"member {entry.filename!r} is damaged: its checksum or header does not match",
            remedy="fetch the whole file again",
        ) from None
