#!/usr/bin/env python3
"""A second reader of the repository format, written from SPEC.md alone.

It lists the snapshots of a repository on a local file system, extracts files and WAL, and checks
every object. It shares no code with the program that writes repositories: what both agree on is what
the specification says. Numbers in comments are sections of SPEC.md.

    reader.py --repository DIR --key-file FILE list
    reader.py --repository DIR --key-file FILE ls SERVER BACKUP [PATH]
    reader.py --repository DIR --key-file FILE extract SERVER BACKUP PATH -o FILE
    reader.py --repository DIR --key-file FILE wal SERVER
    reader.py --repository DIR --key-file FILE extract-wal SERVER NAME -o FILE
    reader.py --repository DIR --key-file FILE check
"""

import argparse
import hmac
import os
import re
import struct
import sys
from pathlib import Path

import zstandard
from argon2 import low_level as argon2
from blake3 import blake3
from nacl import bindings as sodium
from nacl.exceptions import CryptoError

LEAF, MAX_CHUNK, MAX_BLOB = 8192, 1 << 20, 4 << 20
DATA, WAL, MAP, TREE, SNAPSHOT = 1, 2, 3, 4, 5  # kinds of chunks (5.2)
RAW, ZSTD, DELTA = 0, 1, 2  # encodings of blobs (6.2)
BASE_KIND = {DATA: DATA, WAL: DATA, MAP: MAP, TREE: TREE}  # the delta rule (6.3)


class Damage(Exception):
    """Bytes that are not what SPEC.md says they must be."""


class Refused(Exception):
    """What only a newer program may read."""


def need(condition, what):
    if not condition:
        raise Damage(what)


# --- 1: records ---------------------------------------------------------------------------------


class Reader:
    """Reads borsh and fixed layouts, strictly: nothing may be left, and nothing may be missing."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, length):
        need(length <= len(self.data) - self.at, "cut short")
        self.at += length
        return self.data[self.at - length : self.at]

    def end(self):
        need(self.at == len(self.data), "bytes are left over")

    def number(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def u8(self):
        return self.number("B")

    def u16(self):
        return self.number("H")

    def u32(self):
        return self.number("I")

    def u64(self):
        return self.number("Q")

    def i64(self):
        return self.number("q")

    def bool(self):
        value = self.u8()
        need(value < 2, "a bool is neither 0 nor 1")
        return value == 1

    def bytes(self):
        return self.take(self.u32())

    def text(self):
        try:
            return self.bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise Damage("text is not UTF-8") from error

    def list(self, item):
        return [item() for _ in range(self.u32())]

    def option(self, item):
        return item() if self.bool() else None

    def one_of(self, *numbers):
        value = self.u8()
        need(value in numbers, f"{value} is not one of {numbers}")
        return value


def ascending(items, what):
    need(all(a < b for a, b in zip(items, items[1:])), f"{what} do not ascend")


# --- 2: cryptography ----------------------------------------------------------------------------


def derive(context, secret):
    return blake3(secret, derive_key_context=context).digest()


def keyed(key, data):
    return blake3(data, key=key).digest()


class SealingKey:
    def __init__(self, key):
        self.key = key
        self.id = derive("barman v1 key id", key)[:16]
        self.commitment = derive("barman v1 key commitment", key)


def open_box(keys, repository, domain, context, box):
    """Opens a sealed box (2.2) with whichever of the keys sealed it."""
    need(len(box) >= 88, f"{domain}: cut short")
    key_id, nonce, commitment, text = box[:16], box[16:40], box[40:72], box[72:]
    key = next((key for key in keys if hmac.compare_digest(key.id, key_id)), None)
    need(key is not None, f"{domain}: sealed with the unknown key {key_id.hex()}")
    aad = b"barman v1 " + domain.encode() + b"\0" + repository + key_id + context
    expected = keyed(key.commitment, nonce + text[-16:] + aad)
    need(hmac.compare_digest(expected, commitment), f"{domain}: does not authenticate")
    try:
        return sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(text, aad, nonce, key.key)
    except CryptoError as error:
        raise Damage(f"{domain}: does not authenticate") from error


# --- 3: frames of objects -----------------------------------------------------------------------


def strip_prefix(magic, data):
    need(data[:8] == magic, f"the magic number is not {magic.decode()}")
    version = int.from_bytes(data[8:10], "little")
    need(version != 0, "format version 0 does not exist")
    if version > 1:
        raise Refused(f"format version {version} is not 1: a newer program wrote this")
    return data[10:]


def unwrap(magic, data):
    """The body of an object that ends with its checksum."""
    need(data[:8] == magic, f"the magic number is not {magic.decode()}")
    need(len(data) >= 42, "cut short")
    need(blake3(data[:-32]).digest() == data[-32:], "the checksum does not match")
    return strip_prefix(magic, data[:-32])


# --- 9: contents, directories, snapshots --------------------------------------------------------


def read_run(r):
    if r.one_of(0, 1) == 0:
        return (None, 0, r.u64())
    return (r.take(32), r.u32(), r.u32())


def check_runs(runs):
    for chunk, offset, length in runs:
        need(length > 0, "a run is empty")
        need(chunk is None or offset + length <= MAX_CHUNK, "a run ends beyond a chunk")
    for (a, offset, length), (b, next_offset, _) in zip(runs, runs[1:]):
        joined = a == b and (a is None or offset + length == next_offset)
        need(not joined, "two neighbouring runs could be one")
    return sum(length for _, _, length in runs)


def read_content(r):
    """A content, as (is it a map?, runs or leaves), and its length."""
    if r.one_of(0, 1) == 0:
        runs = r.list(lambda: read_run(r))
        return (False, runs), check_runs(runs)
    leaves = r.list(lambda: (r.take(32), r.u64()))
    need(leaves and all(covers > 0 for _, covers in leaves), "a map has an empty leaf")
    return (True, leaves), sum(covers for _, covers in leaves)


def read_directory_ref(r):
    length = r.u64()
    content, found = read_content(r)
    need(length == found, "the content of a directory has another length")
    return content


def read_entry(r):
    name = r.bytes()
    need(0 < len(name) <= 255 and name not in (b".", b".."), "a name names no file")
    need(b"/" not in name and b"\0" not in name, "a name leaves its directory")
    kind = r.one_of(1, 2, 3)
    if kind == 1:
        return name, {"kind": "directory", "mode": r.u32(), "content": read_directory_ref(r)}
    if kind == 3:
        return name, {"kind": "symlink", "target": r.bytes()}
    mode, mtime, size, digest = r.u32(), r.i64(), r.u64(), r.take(32)
    content, length = read_content(r)
    need(length == size, "the content of a file has another length")
    return name, dict(kind="file", mode=mode, mtime=mtime, size=size, digest=digest, content=content)


def read_environment(r):
    e = {"version": r.text(), "libc": r.option(r.text), "icu": r.option(r.text), "preload": r.option(r.text)}
    extension = lambda: (r.text(), r.text())
    collation = lambda: (r.text(), r.text(), r.text(), r.text())
    contents = lambda: (r.list(extension), r.list(collation))

    def database():
        texts = (r.u32(), r.text(), r.text(), r.text(), r.text(), r.text())
        versions = (r.option(r.text), r.option(r.text), r.option(r.text))
        return texts, versions, r.option(contents)

    e["databases"], e["left_out"] = r.list(database), r.u32()
    ascending([texts[0] for texts, _, _ in e["databases"]], "databases")
    for extensions, collations in [c for _, _, c in e["databases"] if c is not None]:
        ascending([name for name, _ in extensions], "extensions")
        ascending([key[:2] for key in collations], "collations")
    return e


def read_server(record):
    """What is known of a server's name (12.4): the systems that were accepted, or where its history is."""
    r = Reader(record)
    r.i64(), r.text()
    systems, elsewhere = [], None
    if r.one_of(1, 2) == 1:
        systems = [system for system, _at in r.list(lambda: (r.u64(), r.i64()))]
    else:
        elsewhere = r.text()
    r.end()
    need(len(systems) <= 1024, "a server has too many systems")
    need(all(a != b for a, b in zip(systems, systems[1:])), "a system is accepted twice in a row")
    return systems, elsewhere


def read_snapshot(record):
    r = Reader(record)
    s = {"server": r.text(), "system_id": r.u64(), "backup_id": r.text(), "sequence": r.u64()}
    s["previous"] = r.list(lambda: r.take(32))
    s["name"], s["begun_at"], s["ended_at"] = r.option(r.text), r.i64(), r.i64()
    s["host"], s["program"], s["method"] = r.text(), r.text(), r.one_of(1, 2, 3, 4)
    s["version"], s["catalog_version"], s["block_size"] = r.u32(), r.u32(), r.u32()
    s["wal_segment_size"], s["data_checksums"] = r.u32(), r.u32()
    s["endpoint"], s["from_standby"] = r.option(lambda: (r.text(), r.u16())), r.bool()
    s["summarize_wal"], s["data_directory"] = r.option(r.bool), r.option(r.text)
    r.option(lambda: (r.text(), r.text(), r.text(), r.list(r.text)))
    s["cluster_size"] = r.u64()
    s["environment"] = r.option(lambda: read_environment(r))
    s["start_lsn"], s["start_timeline"] = r.u64(), r.u32()
    s["stop_lsn"], s["stop_timeline"] = r.u64(), r.u32()
    s["root"], s["root_mode"] = read_directory_ref(r), r.u32()
    s["configuration"] = r.option(lambda: (read_directory_ref(r), r.list(r.text)))
    s["tablespaces"] = r.list(lambda: (r.u32(), r.text(), r.bytes()))
    s["bad_pages"] = r.u64()
    r.list(lambda: (r.text(), r.u32()))
    s["trusted"], s["parent"] = r.bool(), r.option(r.text)
    names = ("files", "bytes", "zero_bytes", "new_bytes", "stored_bytes", "new_chunks", "micros")
    s["statistics"] = {name: r.u64() for name in names}
    r.option(r.bytes)
    r.end()
    ascending(s["previous"], "previous snapshots")
    if s["configuration"] is not None:
        ascending(s["configuration"][1], "unread files")
    return s


# --- 6 to 8: blobs, packs, index runs -----------------------------------------------------------


def read_pack_entry(r):
    offset, header, body = r.u64(), r.u32(), r.u32()
    kind, encoding = r.one_of(1, 2, 3, 4, 5), r.one_of(RAW, ZSTD, DELTA)
    chunks = r.list(lambda: (r.take(32), r.u32()))
    r.list(lambda: r.take(32))
    need(header == 91 + 36 * len(chunks), "the header of a blob has another length")
    return {"offset": offset, "length": 8 + header + body, "kind": kind, "encoding": encoding, "chunks": chunks}


def follow_each_other(entries, start, end):
    for entry in entries:
        need(entry["offset"] == start, "blobs do not follow one another")
        start += entry["length"]
    need(start == end, "blobs do not end where they should")


def split_frame(data):
    r = Reader(data)
    header, body = r.u32(), r.u32()
    return r.take(header), r.take(body), 8 + header + body


class Repository:
    def __init__(self, root, credential, index="runs"):
        self.root, self.how = Path(root), index
        need(self.root.is_dir(), f"{root} is not a directory")
        self.unlock(credential)
        self._places = None
        self._blobs = {}

    def get(self, name):
        return (self.root / name).read_bytes()

    def names(self, prefix):
        """All names below a prefix; what begins with a dot belongs to the store (14.2)."""
        for directory, inner, files in os.walk(self.root / prefix):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            for file in sorted(files):
                if not file.startswith("."):
                    yield str((Path(directory) / file).relative_to(self.root))

    # 11: keys and configuration

    def unlock(self, credential):
        for name in self.names("keys"):
            r = Reader(unwrap(b"BARMANKS", self.get(name)))
            encoded = r.bytes()
            h = Reader(encoded)
            unlock = h.one_of(1, 2, 3)
            kind, secret = credential
            if unlock == 1 and kind == "password":
                memory, passes, lanes, salt = h.u32(), h.u32(), h.u32(), h.take(16)
                need(memory <= 1 << 20 and passes <= 64 and lanes <= 64, "Argon2id asks for too much")
                raw = argon2.hash_secret_raw(secret, salt, passes, memory, lanes, 32, argon2.Type.ID, 19)
                key = SealingKey(derive("barman v1 password slot", raw))
            elif unlock == 2 and kind == "key file":
                key = SealingKey(derive("barman v1 key file slot", secret))
            else:
                continue
            sealed = r.take(len(r.data) - r.at)
            if sealed[:16] != key.id:
                continue
            context = name.encode() + b"\0" + encoded
            return self.secrets(open_box([key], bytes(16), "key slot", context, sealed))
        raise Damage(f"no key slot opens with this {credential[0]}")

    def secrets(self, record):
        r = Reader(record)
        r.one_of(1)
        self.id, identity = r.take(16), r.take(32)
        epochs = r.list(lambda: (r.u32(), r.take(32)))
        copy, number = r.bytes(), r.u64()
        r.end()
        need(epochs, "there is no sealing epoch")
        ascending([n for n, _ in epochs], "epochs")
        self.leaf_key = derive("barman v1 leaf hash", identity)
        self.chunk_key = derive("barman v1 chunk id", identity)
        self.digest_key = derive("barman v1 file digest", identity)
        self.config_key = derive("barman v1 config authentication", identity)
        purposes = ("barman v1 data sealing", "barman v1 metadata sealing")
        self.keys = [SealingKey(derive(purpose, secret)) for _, secret in epochs for purpose in purposes]
        self.config = self.newest_config(copy, number)

    def newest_config(self, copy, copy_number):
        numbers = [int(name.split("/")[1]) for name in self.names("config") if name.split("/")[1].isdigit()]
        for number in sorted(numbers, reverse=True):
            if number < copy_number:
                break
            try:
                return self.read_config(self.get(f"config/{number}"), number)
            except Damage as damage:
                print(f"config/{number} does not count: {damage}", file=sys.stderr)
        print("the configuration is missing: the copy in the key slot is used", file=sys.stderr)
        return self.read_config(copy, copy_number)

    def read_config(self, data, number):
        unwrap(b"BARMANCF", data)
        expected = keyed(self.config_key, b"config/%d\0" % number + data[:-64])
        need(hmac.compare_digest(expected, data[-64:-32]), "the configuration does not authenticate")
        r = Reader(data[14:-64])
        found, repository, _created = r.u64(), r.take(16), r.i64()
        features = [r.list(r.text) for _ in range(3)]
        r.take(9 * 4)
        r.end()
        need(found == number and repository == self.id, "the configuration belongs elsewhere")
        if features[0]:
            raise Refused(f"reading needs features that are unknown here: {features[0]}")
        return number

    def box(self, domain, context, data):
        return open_box(self.keys, self.id, domain, context, data)

    # 5: identity

    def leaves(self, data):
        return b"".join(keyed(self.leaf_key, data[at : at + LEAF]) for at in range(0, len(data), LEAF))

    def chunk_id(self, kind, data):
        return keyed(self.chunk_key, bytes([kind]) + struct.pack("<Q", len(data)) + self.leaves(data))

    # 7, 8, 15.7: where chunks are

    @property
    def places(self):
        """Short id → places (pack, offset of the frame, its length), from runs, footers or the frames."""
        if self._places is None:
            self._places = {}
            for short, place in {"runs": self.from_runs, "footers": self.from_footers, "frames": self.from_frames}[self.how]():
                self._places.setdefault(short, []).append(place)
        return self._places

    def from_runs(self):
        runs, damaged = {}, {}
        for name in self.names("index"):
            data = self.get(name)
            try:
                need(blake3(data).hexdigest() == name.split("/")[1], f"{name} is not what its name says")
                runs[name.split("/")[1]] = self.read_run(self.box("index run", b"", strip_prefix(b"BARMANIX", data)))
            except Damage as damage:
                damaged[name.split("/")[1]] = damage
        superseded = {run.hex() for _, gone in runs.values() for run in gone}
        for name, damage in damaged.items():
            if name not in superseded:
                raise damage
        for name, (places, _) in runs.items():
            if name not in superseded:
                yield from places

    def read_run(self, plain):
        r = Reader(plain)
        counts = [r.u32() for _ in range(5)]
        packs = [(r.take(32), r.u64()) for _ in range(counts[0])]
        blobs = []
        for _ in range(counts[1]):
            pack, offset, header, body, content = r.u32(), r.u64(), r.u32(), r.u32(), r.u32()
            kind, encoding, zero, _first, _bases = r.one_of(1, 2, 3, 4, 5), r.one_of(0, 1, 2), r.u16(), r.u32(), r.u32()
            need(pack < len(packs) and zero == 0 and content <= MAX_BLOB, "a blob of an index run makes no sense")
            blobs.append((packs[pack][0].hex(), offset, 8 + header + body, kind, encoding))
        chunks = [(r.take(20), r.u32(), r.u32(), r.u32()) for _ in range(counts[2])]
        r.take(20 * counts[3])
        superseded = [r.take(32) for _ in range(counts[4])]
        r.end()
        ascending(packs, "packs of a run")
        ascending([(short, blob, offset) for short, blob, offset, _ in chunks], "chunks of a run")
        need(all(blob < len(blobs) for _, blob, _, _ in chunks), "a chunk is in no blob")
        return [(short, blobs[blob]) for short, blob, _, _ in chunks], superseded

    def pack_names(self):
        return [name for name in self.names("packs") if re.fullmatch(r"packs/[0-9a-f]{2}/[0-9a-f]{64}", name)]

    def from_footers(self):
        for name in self.pack_names():
            pack = name.split("/")[2]
            for entry in self.footer(self.get(name)):
                for chunk, _ in entry["chunks"]:
                    yield chunk[:20], (pack, entry["offset"], entry["length"], entry["kind"], entry["encoding"])

    def footer(self, data):
        strip_prefix(b"BARMANPK", data)
        need(data[-8:] == b"BARMANPK", "the trailer of a pack is lost")
        length = int.from_bytes(data[-12:-8], "little")
        offset = len(data) - 12 - length
        need(offset >= 10, "the footer of a pack is too long")
        r = Reader(self.box("pack footer", struct.pack("<Q", offset), data[offset:-12]))
        entries = r.list(lambda: read_pack_entry(r))
        r.end()
        follow_each_other(entries, 10, offset)
        return entries

    def from_frames(self):
        for name in self.pack_names():
            data, at = self.get(name), 10
            while at < len(data):
                if not any(key.id == data[at + 8 : at + 24] for key in self.keys):
                    at += 1
                    continue
                try:
                    header, body, length = split_frame(data[at:])
                    kind, chunks, context = self.read_header(header)
                    encoding = self.box("blob body", context, body)[0]
                except Damage:
                    at += 1
                    continue
                for chunk, _ in chunks:
                    yield chunk[:20], (name.split("/")[2], at, length, kind, encoding)
                at += length

    # 6: blobs

    def read_header(self, sealed):
        context = self.box("blob header", b"", sealed)
        r = Reader(context)
        kind, count = r.one_of(1, 2, 3, 4, 5), r.u16()
        chunks = [(r.take(32), r.u32()) for _ in range(count)]
        r.end()
        need(chunks and all(0 < length <= MAX_CHUNK for _, length in chunks), "a chunk is empty or too long")
        need(sum(length for _, length in chunks) <= MAX_BLOB, "a blob is too long")
        return kind, chunks, context

    def read_frame(self, data):
        """The kind and the chunks of a blob, as id → content."""
        header, body, length = split_frame(data)
        need(length == len(data), "a frame has another length")
        kind, chunks, context = self.read_header(header)
        r = Reader(self.box("blob body", context, body))
        encoding = r.one_of(RAW, ZSTD, DELTA)
        bases = [(r.take(32), r.u32(), r.u32()) for _ in range(r.u16())]
        payload = r.bytes()
        need(not any(r.data[r.at :]), "the padding of a blob is not zero")
        need((encoding == DELTA) == bool(bases), "deltas, and only they, have bases")
        total = sum(length for _, length in chunks)
        if encoding == RAW:
            content = payload
        else:
            prefix = b"".join(self.base(kind, *base) for base in bases)
            content = decompress(payload, prefix, total)
        need(len(content) == total, "the content of a blob has another length")
        found, at = {}, 0
        for chunk, length in chunks:
            found[chunk] = content[at : at + length]
            at += length
        return kind, found

    def base(self, kind, chunk, offset, length):
        need(kind in BASE_KIND, "a chunk of this kind cannot be a delta")
        for place in self.places.get(chunk[:20], []):
            if place[3] == BASE_KIND[kind] and place[4] != DELTA:
                return self.blob(place)[1][chunk][offset : offset + length]
        raise Damage(f"the base {chunk.hex()} is not stored plain")

    def blob(self, place):
        pack, offset, length = place[:3]
        if (pack, offset) not in self._blobs:
            if len(self._blobs) > 64:
                self._blobs.clear()
            with open(self.root / f"packs/{pack[:2]}/{pack}", "rb") as file:
                file.seek(offset)
                self._blobs[pack, offset] = self.read_frame(file.read(length))
        return self._blobs[pack, offset]

    def chunk(self, kind, chunk):
        for place in self.places.get(chunk[:20], []):
            found_kind, chunks = self.blob(place)
            if found_kind == kind and chunk in chunks:
                need(self.chunk_id(kind, chunks[chunk]) == chunk, f"chunk {chunk.hex()} has another content")
                return chunks[chunk]
        raise Damage(f"chunk {chunk.hex()} is missing")

    # 9, 10: what chunks make

    def pieces(self, content, kind):
        is_map, parts = content
        if not is_map:
            yield from self.runs(parts, lambda chunk: self.chunk(kind, chunk))
            return
        for leaf, covers in parts:
            r = Reader(self.chunk(MAP, leaf))
            runs = r.list(lambda: read_run(r))
            r.end()
            need(check_runs(runs) == covers, "a leaf of a map covers something else")
            yield from self.runs(runs, lambda chunk: self.chunk(kind, chunk))

    @staticmethod
    def runs(runs, find):
        for chunk, offset, length in runs:
            if chunk is None:
                while length:
                    step = min(length, 1 << 20)
                    yield bytes(step)
                    length -= step
            else:
                piece = find(chunk)[offset : offset + length]
                need(len(piece) == length, "a run goes beyond its chunk")
                yield piece

    def write(self, pieces, size, digest, out):
        """Writes a file and verifies its digest (5.3) from what was written."""
        hasher, rest, total = blake3(key=self.digest_key), b"", 0
        for piece in pieces:
            out.write(piece)
            total += len(piece)
            rest += piece
            whole = len(rest) - len(rest) % LEAF
            hasher.update(self.leaves(rest[:whole]))
            rest = rest[whole:]
        hasher.update(self.leaves(rest))
        hasher.update(struct.pack("<Q", total))
        need(total == size and hasher.digest() == digest, "the file has another digest")

    def directory(self, content):
        r = Reader(b"".join(self.pieces(content, TREE)))
        entries = r.list(lambda: read_entry(r))
        r.end()
        ascending([name for name, _ in entries], "names in a directory")
        return entries

    def server_names(self, prefix="servers"):
        return [name for name in self.names(prefix) if re.fullmatch(r"servers/[^/]+/[1-9][0-9]*", name)]

    def server(self, name):
        return read_server(self.box("server record", name.encode(), unwrap(b"BARMANSV", self.get(name))))

    def stored_name(self, server):
        """The name under which the objects of a server are stored (12.4): the highest record tells."""
        names = self.server_names(f"servers/{escape(server)}")
        if not names:
            return server
        _systems, elsewhere = self.server(max(names, key=lambda name: int(name.split("/")[2])))
        return elsewhere or server

    def snapshots(self):
        for name in self.names("snapshots"):
            sealed = unwrap(b"BARMANSN", self.get(name))
            snapshot = read_snapshot(self.box("snapshot", name.encode(), sealed))
            server, system, backup = name.split("/")[1:]
            same = (escape(snapshot["server"]), str(snapshot["system_id"]), snapshot["backup_id"])
            need(same == (server, system, backup), f"{name} holds another backup")
            yield snapshot

    def snapshot(self, server, backup):
        stored = self.stored_name(server)
        for snapshot in self.snapshots():
            if (snapshot["server"], snapshot["backup_id"]) == (stored, backup):
                return snapshot
        raise Damage(f"server {server} has no backup {backup}")

    def find(self, snapshot, path):
        """What is at a path in the data directory; an absolute one is that of a configuration file outside it."""
        root = snapshot["root"]
        if path.startswith("/"):
            need(snapshot["configuration"] is not None, "all configuration files are in the data directory")
            root = snapshot["configuration"][0]
        node = {"kind": "directory", "content": root}
        for part in [part for part in os.fsencode(path).split(b"/") if part]:
            need(node["kind"] == "directory", f"{path}: not a directory on the way")
            node = dict(self.directory(node["content"])).get(part)
            need(node is not None, f"there is no {path}")
        return node

    def walk(self, content, path=""):
        for name, node in self.directory(content):
            inner = f"{path}/{os.fsdecode(name)}".lstrip("/")
            yield inner, node
            if node["kind"] == "directory":
                yield from self.walk(node["content"], inner)

    def wal_names(self, server, top="wal"):
        return list(self.names(f"{top}/{escape(self.stored_name(server))}" if server else top))

    def extract_wal(self, name, out):
        r = Reader(unwrap(b"BARMANWL", self.get(name)))
        h = Reader(self.box("WAL header", name.encode(), r.bytes()))
        file, size, digest, _at, _host = h.text(), h.u64(), h.take(32), h.i64(), h.text()
        (is_map, runs), length = read_content(h)
        blobs = h.list(lambda: read_pack_entry(h))
        h.end()
        need(not is_map and length == size, "the content of a WAL file has a map or another length")
        need(name.split("/")[-1].startswith(file), f"{name} holds another file")
        need(name.endswith(digest.hex()[:32]), f"{name} holds other content")
        frames = r.take(len(r.data) - r.at)
        follow_each_other(blobs, 0, len(frames))
        chunks = {}
        for blob in blobs:
            kind, found = self.read_frame(frames[blob["offset"] : blob["offset"] + blob["length"]])
            need(kind == WAL, "a blob of a WAL object is of another kind")
            for chunk, content in found.items():
                need(self.chunk_id(WAL, content) == chunk, f"chunk {chunk.hex()} has another content")
            chunks.update(found)
        missing = [chunk for chunk, _, _ in runs if chunk is not None and chunk not in chunks]
        need(not missing, "a chunk of a WAL file is missing")
        self.write(self.runs(runs, chunks.__getitem__), size, digest, out)


def decompress(payload, prefix, length):
    dictionary = zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if prefix else None
    decoder = zstandard.ZstdDecompressor(dict_data=dictionary).decompressobj()
    try:
        content = decoder.decompress(payload)
    except zstandard.ZstdError as error:
        raise Damage(f"zstd: {error}") from error
    need(decoder.eof and not decoder.unused_data and len(content) <= length, "not exactly one zstd frame")
    return content


def escape(server):
    """A server's name as a part of an object's name (4)."""
    plain = re.compile(rb"[A-Za-z0-9_-]")
    out = ""
    for at, byte in enumerate(server.encode()):
        one = bytes([byte])
        out += one.decode() if plain.fullmatch(one) or (one == b"." and at > 0) else f"%{byte:02X}"
    return out


# --- the command line ---------------------------------------------------------------------------


def lsn(value):
    return f"{value >> 32:X}/{value & 0xFFFFFFFF:X}"


def list_snapshots(repository, _args):
    for s in sorted(repository.snapshots(), key=lambda s: (s["server"], s["sequence"])):
        print(
            s["server"], s["backup_id"], s["system_id"], s["sequence"], lsn(s["start_lsn"]), lsn(s["stop_lsn"]),
            s["statistics"]["files"], s["statistics"]["bytes"], sep="\t",
        )


def list_directory(repository, args):
    node = repository.find(repository.snapshot(args.server, args.backup), args.path)
    need(node["kind"] == "directory", f"{args.path} is not a directory")
    for name, entry in repository.directory(node["content"]):
        print(entry["kind"], f"{entry.get('mode', 0):04o}", entry.get("size", 0), os.fsdecode(name), sep="\t")


def extract(repository, args):
    node = repository.find(repository.snapshot(args.server, args.backup), args.path)
    need(node["kind"] == "file", f"{args.path} is not a file")
    with output(args.output) as out:
        repository.write(repository.pieces(node["content"], DATA), node["size"], node["digest"], out)


def list_wal(repository, args):
    for name in repository.wal_names(args.server):
        print(name)


def extract_wal(repository, args):
    names = [n for n in repository.wal_names(args.server) if n.split("/")[-1].rsplit("-", 1)[0] == args.name]
    need(len(names) == 1, f"there are {len(names)} files called {args.name}")
    with output(args.output) as out:
        repository.extract_wal(names[0], out)


def check(repository, _args):
    nowhere, objects, files = open(os.devnull, "wb"), 0, 0
    for name in repository.pack_names():
        data = repository.get(name)
        need(blake3(data).hexdigest() == name.split("/")[2], f"{name} is not what its name says")
        for entry in repository.footer(data):
            kind, chunks = repository.read_frame(data[entry["offset"] : entry["offset"] + entry["length"]])
            for chunk, content in chunks.items():
                need(repository.chunk_id(kind, content) == chunk, f"{name}: chunk {chunk.hex()} has another content")
        objects += 1
    for snapshot in repository.snapshots():
        outside = [] if snapshot["configuration"] is None else [snapshot["configuration"][0]]
        for root in [snapshot["root"], *outside]:
            for _path, node in repository.walk(root):
                if node["kind"] == "file":
                    repository.write(repository.pieces(node["content"], DATA), node["size"], node["digest"], nowhere)
                    files += 1
        objects += 1
    for name in repository.server_names():
        repository.server(name)
        objects += 1
    for name in repository.wal_names(None) + repository.wal_names(None, "conflicts"):
        repository.extract_wal(name, nowhere)
        objects += 1
    print(f"{objects} objects and {files} files are sound")


def output(path):
    return os.fdopen(os.dup(1), "wb") if path == "-" else open(path, "wb")


def main():
    parser = argparse.ArgumentParser(description="Reads a repository of barman, by its specification alone.")
    parser.add_argument("--repository", required=True)
    key = parser.add_mutually_exclusive_group(required=True)
    key.add_argument("--key-file")
    key.add_argument("--password-file")
    index = parser.add_mutually_exclusive_group()
    index.add_argument("--no-index", dest="index", action="store_const", const="footers", default="runs")
    index.add_argument("--scan", dest="index", action="store_const", const="frames")
    commands = parser.add_subparsers(required=True)
    for name, function, arguments in [
        ("list", list_snapshots, []),
        ("ls", list_directory, ["server", "backup", "path?"]),
        ("extract", extract, ["server", "backup", "path", "-o"]),
        ("wal", list_wal, ["server"]),
        ("extract-wal", extract_wal, ["server", "name", "-o"]),
        ("check", check, []),
    ]:
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        for argument in arguments:
            if argument == "-o":
                command.add_argument("-o", "--output", default="-")
            elif argument.endswith("?"):
                command.add_argument(argument[:-1], nargs="?", default="")
            else:
                command.add_argument(argument)
    args = parser.parse_args()
    try:
        args.function(Repository(args.repository, credential(args), args.index), args)
    except (Damage, Refused, OSError) as error:
        sys.exit(f"reader.py: {error}")


def credential(args):
    if args.password_file:
        return "password", Path(args.password_file).read_bytes().removesuffix(b"\n")
    text = Path(args.key_file).read_text()
    match = re.fullmatch(r"barman-key-1:([0-9a-f]{64})\n?", text)
    need(match is not None, f"{args.key_file} is not a key file")
    return "key file", bytes.fromhex(match[1])


if __name__ == "__main__":
    main()
