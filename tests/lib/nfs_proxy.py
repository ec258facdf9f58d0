"""A network between an NFS client and its server that delays and reorders.

Usage: nfs_proxy.py --listen PORT --server PORT [--seed N] [--delay MS] [--answers FILE]

Each connection to PORT on 127.0.0.1 is carried on to the server's port. What it carries are
records of RPC over TCP, requests one way and replies the other; each record is held for a time
of its own, 0 to MS, so that they overtake each other, requests and replies alike. When a client
closes, what it has sent still reaches the server.

--answers: while FILE exists and its first line says "OPERATION STATUS COUNT", the next COUNT replies
to that operation (READ, WRITE, COMMIT of a file, versions 3 and 4, and DEALLOCATE) are replaced by
a refusal with that NFS status. The line is removed with the last, and FILE with the last line.

Prints "ready" when it listens. SIGTERM: ends when the connections that there are have ended, and
tells how many records overtook another.

Limits: a compound of version 4 whose operations are PUTFH and one of the three counts, or SEQUENCE,
PUTFH and DEALLOCATE; others pass.
"""

import argparse
import asyncio
import os
import random
import signal
import struct

NFS_PROGRAM = 100003
LAST_FRAGMENT = 0x80000000
OP_PUTFH = 22
OP_SEQUENCE = 53
SEQUENCE_WORDS = 8  # of its arguments: session (4), sequence, slot, highest slot, cache this
OPERATIONS = {  # by version: number -> name
    3: {6: "READ", 7: "WRITE", 21: "COMMIT"},
    4: {25: "READ", 38: "WRITE", 5: "COMMIT", 62: "DEALLOCATE"},
}


def skip_opaque(data, at):
    """Behind a counted opaque of XDR."""
    (length,) = struct.unpack_from(">I", data, at)
    return at + 4 + (length + 3) // 4 * 4


def call_of(record):
    """(xid, version, operation) of a call that is one of ours, else (xid, None, None)."""
    xid, kind, _, program, version, procedure = struct.unpack_from(">6I", record)
    nothing = (xid, None, None)
    if kind != 0 or program != NFS_PROGRAM or version not in OPERATIONS:
        return nothing
    if version == 3:
        return (xid, version, procedure) if procedure in OPERATIONS[3] else nothing
    if procedure != 1:  # COMPOUND
        return nothing
    at = skip_opaque(record, skip_opaque(record, 28) + 4)  # credentials, verifier
    at = skip_opaque(record, at)  # tag
    _, count, first = struct.unpack_from(">3I", record, at)
    at += 8
    if count == 3 and first == OP_SEQUENCE:
        at += 4 + SEQUENCE_WORDS * 4
        (first,) = struct.unpack_from(">I", record, at)
    elif count != 2:
        return nothing
    if first != OP_PUTFH:
        return nothing
    (operation,) = struct.unpack_from(">I", record, skip_opaque(record, at + 4))
    return (xid, version, operation) if operation in OPERATIONS[4] else nothing


def refusal(xid, version, operation, status, reply):
    """The record of a reply that refuses, in the place of `reply`."""
    header = struct.pack(">6I", xid, 1, 0, 0, 0, 0)
    if OPERATIONS[version][operation] == "DEALLOCATE":
        # SEQUENCE's own result stays: no tag, three results, its number and status, nine words.
        sequence = reply[24 + 12:24 + 12 + 8 + 36]
        return (header + struct.pack(">3I", status, 0, 3) + sequence +
                struct.pack(">4I", OP_PUTFH, 0, operation, status))
    if version == 4:  # status, no tag, two results
        return header + struct.pack(">7I", status, 0, 2, OP_PUTFH, 0, operation, status)
    # No attributes, before or after.
    return header + struct.pack(">I", status) + bytes(4 if operation == 6 else 8)


class Proxy:
    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.connections = set()
        self.records = 0
        self.overtaken = 0
        self.ending = asyncio.Event()

    def replaced_status(self, version, operation):
        """The status that the next reply to this operation is to have; None: its own."""
        try:
            with open(self.options.answers, encoding="ascii") as file:
                lines = file.read().splitlines()
        except (FileNotFoundError, TypeError):
            return None
        name, status, count = lines[0].split()
        if name != OPERATIONS[version][operation]:
            return None
        if int(count) > 1:
            lines[0] = f"{name} {status} {int(count) - 1}"
        else:
            del lines[0]
        if lines:
            with open(self.options.answers, "w", encoding="ascii") as file:
                file.write("\n".join(lines) + "\n")
        else:
            os.unlink(self.options.answers)
        return int(status)

    def delay(self):
        most = self.options.delay / 1000
        return self.random.uniform(0, most) if self.random.random() < 0.5 else 0

    async def serve(self, reader, writer):
        task = asyncio.current_task()
        self.connections.add(task)
        try:
            await Connection(self, reader, writer).run()
        finally:
            writer.close()
            self.connections.discard(task)


class Direction:
    """One way of a connection: records, each on its way for a time of its own."""

    def __init__(self, proxy, writer):
        self.proxy = proxy
        self.writer = writer
        self.under_way = []  # numbers, oldest first
        self.number = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def carry(self, record):
        self.number += 1
        self.under_way.append(self.number)
        self.idle.clear()
        self.proxy.records += 1
        asyncio.get_running_loop().call_later(
            self.proxy.delay(), self.deliver, self.number, record)

    def deliver(self, number, record):
        if self.under_way[0] != number:
            self.proxy.overtaken += 1
        self.under_way.remove(number)
        if not self.writer.is_closing():
            self.writer.write(struct.pack(">I", LAST_FRAGMENT | len(record)) + record)
        if not self.under_way:
            self.idle.set()


async def read_record(reader):
    """None: the connection has ended."""
    record = b""
    try:
        while True:
            (mark,) = struct.unpack(">I", await reader.readexactly(4))
            record += await reader.readexactly(mark & ~LAST_FRAGMENT)
            if mark & LAST_FRAGMENT:
                return record
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


class Connection:
    def __init__(self, proxy, reader, writer):
        self.proxy = proxy
        self.reader = reader
        self.replies = Direction(proxy, writer)
        self.unanswered = {}  # xid -> (version, operation)
        self.all_answered = asyncio.Event()
        self.all_answered.set()

    async def run(self):
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.proxy.options.server)
        except ConnectionError:
            return
        self.requests = Direction(self.proxy, writer)
        from_server = asyncio.create_task(self.carry_replies(reader))
        from_client = asyncio.create_task(self.carry_requests())
        await asyncio.wait([from_server, from_client], return_when=asyncio.FIRST_COMPLETED)
        if not from_server.done():  # the client has closed
            await self.requests.idle.wait()
            answered = asyncio.create_task(self.all_answered.wait())
            await asyncio.wait([from_server, answered], return_when=asyncio.FIRST_COMPLETED)
            answered.cancel()
        await self.replies.idle.wait()
        from_server.cancel()
        from_client.cancel()
        writer.close()

    async def carry_requests(self):
        while (record := await read_record(self.reader)) is not None:
            xid, version, operation = call_of(record)
            self.unanswered[xid] = (version, operation)
            self.all_answered.clear()
            self.requests.carry(record)

    async def carry_replies(self, reader):
        while (record := await read_record(reader)) is not None:
            (xid,) = struct.unpack_from(">I", record)
            version, operation = self.unanswered.pop(xid, (None, None))
            if not self.unanswered:
                self.all_answered.set()
            if operation is not None:
                status = self.proxy.replaced_status(version, operation)
                if status is not None:
                    record = refusal(xid, version, operation, status, record)
            self.replies.carry(record)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", type=int, required=True)
    parser.add_argument("--server", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--delay", type=int, default=0)
    parser.add_argument("--answers")
    proxy = Proxy(parser.parse_args())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, proxy.ending.set)
    server = await asyncio.start_server(
        proxy.serve, "127.0.0.1", proxy.options.listen, limit=1 << 22)
    print("ready", flush=True)
    await proxy.ending.wait()
    server.close()
    while proxy.connections:
        await asyncio.wait(list(proxy.connections))
    print(f"{proxy.records} records, {proxy.overtaken} overtook another", flush=True)


asyncio.run(main())
