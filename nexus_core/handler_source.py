"""Reading one handler from disk: which files belong to it, what is refused, and its digest.

A handler is one file `<name>.js|.mjs|.ts|.mts` with an optional `<name>.toml` beside it, or a folder
`<name>/` with `index.*` (or the `entry` its `nexus.toml` names) and the files it imports.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import msgspec

from nexus_core.errors import InvalidHandler
from nexus_core.limits import MIB, ResourceLimits
from nexus_core.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from nexus_core.source_text import invalid_at

CODE_SUFFIXES = (".js", ".mjs", ".ts", ".mts")
"""Files a handler may start with."""

SOURCE_SUFFIXES = (*CODE_SUFFIXES, ".json")
"""Files of a folder that the handler's code may import; all others are left out."""

WASM_SUFFIXES = (".wasm", ".wat")

MANIFEST_NAME = "nexus.toml"
MAX_FILES = 256
MAX_SOURCE_BYTES = 4 * MIB
MAX_FOLDER_DEPTH = 16

# Installed packages and editors' leavings are not the handler's own files.
_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__"})

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class HandlerSource(msgspec.Struct, frozen=True, dict=True):
    """Everything of one handler: `files` holds text by path in its folder, `entry` is one of them."""

    name: str
    entry: str
    files: Mapping[str, str]
    manifest: Manifest = Manifest()

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the entry and all files; the manifest and the name are not part of it."""
        sha = hashlib.sha256()
        for text in (self.entry, *(part for item in sorted(self.files.items()) for part in item)):
            data = text.encode()
            # The length keeps ("ab", "c") and ("a", "bc") apart.
            sha.update(len(data).to_bytes(8))
            sha.update(data)
        return sha.hexdigest()


def is_handler_name(name: str) -> bool:
    """Whether `name` can be a handler's: 1 to 63 of a-z, 0-9, `_` and `-`, the first no sign."""
    return _NAME.fullmatch(name) is not None


def is_declaration(file: str) -> bool:
    """Whether a file only declares TypeScript types (`.d.ts`): an editor reads it, a handler never does."""
    return file.endswith((".d.ts", ".d.mts"))


def load_handler(path: Path, defaults: ResourceLimits, root: Path | None = None) -> HandlerSource:
    """Read the handler at `path`, a file or a folder; limits its manifest does not set are `defaults`.

    No file outside `root` is read, whatever links say; it is the folder itself, or the one the file
    stands in, when None. Raises `InvalidHandler` with the place of what is wrong.
    """
    name = path.name if path.is_dir() else path.stem
    if not is_handler_name(name):
        raise InvalidHandler(
            f"handler name {name!r} is not allowed: 1 to 63 of a-z, 0-9, '_' and '-', first a letter or digit"
        )
    if path.is_dir():
        return _load_folder(name, path, _Reader(root or path), defaults)
    return _load_file(name, path, _Reader(root or path.parent), defaults)


def _load_file(name: str, path: Path, reader: _Reader, defaults: ResourceLimits) -> HandlerSource:
    if path.suffix in WASM_SUFFIXES:
        raise InvalidHandler(f"{path.name}: WASM modules are not supported yet; {_allowed()}")
    if path.suffix not in CODE_SUFFIXES:
        raise InvalidHandler(f"{path.name} is not a handler; {_allowed()}")
    text = reader.text(path, path.name)
    beside = path.with_suffix(".toml")
    manifest = Manifest(limits=defaults)
    if beside.exists():
        manifest = parse_manifest(reader.text(beside, beside.name, MAX_MANIFEST_BYTES), beside.name, defaults)
    if manifest.entry not in {None, path.name}:
        raise InvalidHandler(f"{beside.name}: entry is for folders; the only file here is {path.name}")
    return HandlerSource(name, path.name, MappingProxyType({path.name: text}), manifest)


def _load_folder(name: str, path: Path, reader: _Reader, defaults: ResourceLimits) -> HandlerSource:
    manifest_path = path / MANIFEST_NAME
    manifest = Manifest(limits=defaults)
    if manifest_path.exists():
        text = reader.text(manifest_path, MANIFEST_NAME, MAX_MANIFEST_BYTES)
        manifest = parse_manifest(text, MANIFEST_NAME, defaults)
    files: dict[str, str] = {}
    for relative in source_paths(path):
        if len(files) == MAX_FILES:
            raise InvalidHandler(f"handler {name!r} has more than {MAX_FILES} source files")
        if not relative.isprintable():
            raise InvalidHandler(f"handler {name!r} has a file with an unprintable name: {relative!r}")
        files[relative] = reader.text(path / relative, relative)
    return HandlerSource(name, _entry_of(name, path, files, manifest), MappingProxyType(files), manifest)


def _entry_of(name: str, path: Path, files: Mapping[str, str], manifest: Manifest) -> str:
    """The file a folder's handler starts with: what the manifest names, else the only `index.*`."""
    code = [file for file in files if file.endswith(CODE_SUFFIXES)]
    if manifest.entry is not None:
        if manifest.entry not in code:
            listed = ", ".join(code[:10]) or "none"
            raise InvalidHandler(
                f"{MANIFEST_NAME}: entry {manifest.entry!r} is no code file here; there are: {listed}"
            )
        return manifest.entry
    entries = [file for file in (f"index{suffix}" for suffix in CODE_SUFFIXES) if file in files]
    if len(entries) == 1:
        return entries[0]
    if entries:
        raise InvalidHandler(
            f"handler {name!r} has {' and '.join(entries)}: set entry in {MANIFEST_NAME} to one of them"
        )
    if any((path / f"index{suffix}").exists() for suffix in WASM_SUFFIXES):
        raise InvalidHandler(f"handler {name!r}: WASM modules are not supported yet; {_allowed()}")
    raise InvalidHandler(
        f"handler {name!r} has no index.js, index.mjs, index.ts or index.mts and no entry in {MANIFEST_NAME}"
    )


def source_paths(folder: Path) -> Iterator[str]:
    """The source files below `folder` as relative POSIX paths, sorted folder by folder.

    Names that start with a dot are left out: editors' files, and the folders behind the links of a
    Kubernetes ConfigMap. Raises `InvalidHandler` for a link to a folder and for too deep nesting.
    """
    return _walk(folder, "", 0)


def _walk(folder: Path, prefix: str, depth: int) -> Iterator[str]:
    if depth > MAX_FOLDER_DEPTH:
        raise InvalidHandler(f"folders are nested deeper than {MAX_FOLDER_DEPTH} in {prefix}")
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _SKIPPED_FOLDERS or is_declaration(entry.name):
            continue
        relative = f"{prefix}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, f"{relative}/", depth + 1)
        elif entry.name.endswith(SOURCE_SUFFIXES):
            yield relative
        elif entry.is_symlink() and entry.is_dir():
            raise InvalidHandler(f"{relative} is a link to a folder; only links to files are followed")


class _Reader:
    """Reads text files that lie inside one root, up to a total of `MAX_SOURCE_BYTES`."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._left = MAX_SOURCE_BYTES

    def text(self, path: Path, shown: str, most: int = MAX_SOURCE_BYTES) -> str:
        """The text of `path`; errors call it `shown`, so that no path of the host gets out."""
        try:
            data = self._bytes(path, shown, min(most, self._left))
        except OSError as error:
            raise InvalidHandler(f"{shown} cannot be read: {error.strerror}") from error
        self._left -= len(data)
        data = data.removeprefix(b"\xef\xbb\xbf")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise _not_utf8(data, error.start, shown) from None

    def _bytes(self, path: Path, shown: str, most: int) -> bytes:
        # Resolved first, so that the file whose place was checked is the file that is read.
        real = path.resolve(strict=True)
        if not real.is_relative_to(self._root):
            raise InvalidHandler(f"{shown} is a link that leaves the handler's folder")
        if not stat.S_ISREG(real.stat().st_mode):
            raise InvalidHandler(f"{shown} is not a regular file")
        with real.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise InvalidHandler(f"{shown} is too large: {most} bytes are left of what is allowed")
        return data


def _not_utf8(data: bytes, start: int, shown: str) -> InvalidHandler:
    """The error for a byte that is not UTF-8, with its line and its column in characters."""
    line = data.count(b"\n", 0, start) + 1
    before = data[data.rfind(b"\n", 0, start) + 1 : start].decode()
    text = data.decode(errors="replace")
    return invalid_at(f"byte 0x{data[start]:02x} is not UTF-8", shown, text, line, len(before) + 1)


def _allowed() -> str:
    return f"a handler is a file {', '.join(CODE_SUFFIXES)} or a folder with an index file"
