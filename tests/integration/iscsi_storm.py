"""Initiators that abort, reset and drop their sessions without end, and know what must be there.

Usage: iscsi_storm.py URL --save FILE [--writes N] [--sessions N] [--seed N]

URL is one logical unit's, as nas-scsi prints it. Each session has slots of 16 blocks of its own;
in each, one write after the other is sent, and often aborted (ABORT TASK) while it is under way,
the next one to the same blocks right behind it. Meanwhile the unit is reset (LUN RESET), and
sessions are cut off or taken over by a new login. At the end each slot is aborted once more, and
written a last time.

A block must hold what the last write wrote that was acknowledged, or what one wrote that was
begun after that and has no answer: each read is compared. Each answer must be to a command that
has none yet: none twice, and none after the answer that it was aborted, nor after the unit
attention that tells of a reset, all seen on the wire and numbered without a gap. FILE, which is
there, gets what the slots must hold. Exit status 1: something was wrong.

Speaks iSCSI by itself (RFC 7143), so that nothing stands between the wire and the judge.
"""

import argparse
import asyncio
import os
import random
import socket
import struct
import sys
import urllib.parse

BLOCK = 512  # bytes
SLOT_BLOCKS = 16
SLOTS = 16  # of a session
NO_TAG = 0xFFFFFFFF
COMMAND, TASK_MANAGEMENT, LOGIN, DATA_OUT = 0x01, 0x02, 0x03, 0x05
NOP_IN, RESPONSE, TASK_ANSWER, LOGIN_ANSWER, DATA_IN, R2T = 0x20, 0x21, 0x22, 0x23, 0x25, 0x31
ABORT_TASK, LUN_RESET = 1, 5
COMPLETE, NO_SUCH_TASK = 0, 1
UNIT_ATTENTION = 6
WAS_RESET = 0x2903
GOOD, LOST = "good", "lost"


class Wrong(Exception):
    """What the target did is wrong."""


def expect(right, what):
    if not right:
        raise Wrong(what)


class Command:
    def __init__(self, number, data, resets):
        self.number = number  # CmdSN
        self.data = data
        self.resets = resets  # of the unit, when it was sent
        self.came = bytearray()  # data in
        self.answer = asyncio.get_running_loop().create_future()


class Session:
    """One I_T nexus, over one connection after the other."""

    def __init__(self, storm, number):
        self.storm = storm
        self.number = number
        self.tag = 0
        self.writer = None
        self.there = asyncio.Event()  # logged in

    async def connect(self):
        reader, self.writer = await asyncio.open_connection(*self.storm.portal)
        keys = {
            "InitiatorName": f"iqn.2026-11.test:storm{self.number}",
            "TargetName": self.storm.target, "SessionType": "Normal", "HeaderDigest": "None",
            "DataDigest": "None", "ImmediateData": "Yes", "InitialR2T": "Yes",
            "MaxRecvDataSegmentLength": "65536"}
        header = bytearray(48)
        header[0:2] = bytes((0x40 | LOGIN, 0x87))  # from operational to full feature
        struct.pack_into(">HI", header, 8, 0x8000, self.number)  # ISID
        struct.pack_into(">I", header, 24, 1)
        self.put(header, "".join(f"{key}={value}\0" for key, value in keys.items()).encode())
        answer, _ = await read_pdu(reader)
        expect(answer[0] & 0x3F == LOGIN_ANSWER and answer[36:38] == b"\0\0", "no login")
        self.status_number = struct.unpack_from(">I", answer, 24)[0] + 1
        self.command_number = 1
        self.commands = {}  # by tag: without an answer
        self.requests = {}  # by tag: task management without an answer
        self.listener = asyncio.create_task(self.listen(reader))
        self.there.set()

    async def drop(self, gently):
        """All that is under way is lost; `gently`: the next login ends the old connection."""
        self.there.clear()
        old, commands, requests = self.writer, self.commands, self.requests
        self.listener.cancel()
        if not gently:
            # Without a farewell: what is on its way to us is lost.
            old.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            old.close()
        await self.connect()
        if gently:
            old.close()
        for command in commands.values():
            command.answer.set_result((LOST, b""))
        for answer, _ in requests.values():
            answer.set_result(None)

    def put(self, header, data=b""):
        header[5:8] = len(data).to_bytes(3, "big")
        self.writer.write(bytes(header) + data + bytes(-len(data) % 4))

    def new_tag(self):
        self.tag += 1
        return self.tag

    async def send(self, cdb, data=b"", read=0, immediate=True):
        """A command; its answer is awaited by its `answer`."""
        await self.there.wait()
        tag = self.new_tag()
        header = bytearray(48)
        header[0:2] = bytes((COMMAND, 0x81 | (0x20 if data else 0) | (0x40 if read else 0)))
        header[9] = self.storm.lun
        struct.pack_into(">4I", header, 16, tag, len(data) or read, self.command_number,
                         self.status_number)
        header[32:32 + len(cdb)] = cdb
        command = Command(self.command_number, data, self.storm.resets)
        self.commands[tag] = command
        self.command_number += 1
        self.put(header, data if immediate else b"")
        return tag, command

    async def manage(self, function, tag, answered):
        """Task management; `answered` is called with the response and the commands' number then,
        before another PDU is looked at, unless the session is dropped meanwhile."""
        await self.there.wait()
        own = self.new_tag()
        header = bytearray(48)
        header[0:2] = bytes((0x40 | TASK_MANAGEMENT, 0x80 | function))
        header[9] = self.storm.lun
        struct.pack_into(">5I", header, 16, own, tag, self.command_number, self.status_number, 0)
        answer = asyncio.get_running_loop().create_future()
        before = self.command_number
        self.requests[own] = (answer, lambda response: answered(response, before))
        self.put(header)
        await answer

    def lose(self, lost):
        """No answer may come any more to the commands that `lost` names."""
        for tag in [tag for tag, command in self.commands.items() if lost(tag, command)]:
            self.commands.pop(tag).answer.set_result((LOST, b""))

    async def listen(self, reader):
        try:
            while True:
                self.take(*await read_pdu(reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.storm.fail(Wrong("the target ended a session"))
        except Exception as wrong:  # whatever it is, nobody else would see it
            self.storm.fail(wrong)

    def take(self, header, data):
        kind = header[0] & 0x3F
        tag, transfer_tag, number = struct.unpack_from(">3I", header, 16)
        if kind == R2T:
            return self.send_data(tag, transfer_tag, header)
        with_status = kind in (RESPONSE, TASK_ANSWER) or (kind == DATA_IN and header[1] & 1)
        if with_status:
            expect(number == self.status_number, "a status number is missing or came twice")
            self.status_number += 1
        if kind == NOP_IN and tag == NO_TAG:
            return None
        if kind == TASK_ANSWER:
            expect(tag in self.requests, "a request was answered twice")
            answer, answered = self.requests.pop(tag)
            answered(header[2])
            return answer.set_result(None)
        expect(kind in (RESPONSE, DATA_IN), f"an unexpected PDU, {kind:#x}")
        expect(tag in self.commands, "an answer to a command that had one, or was aborted")
        command = self.commands[tag]
        if kind == DATA_IN:
            command.came += data
            if not with_status:
                return None
        del self.commands[tag]
        if header[3] == 0 and header[2] == 0:
            return command.answer.set_result((GOOD, bytes(command.came)))
        expect(header[3] == 2 and len(data) > 16, f"status {header[3]:#x}")
        key, code = data[4] & 0xF, struct.unpack_from(">H", data, 14)[0]
        expect(key == UNIT_ATTENTION, f"sense {key:x}/{code:04x}")
        if code == WAS_RESET:
            self.lose(lambda _, other: other.number < command.number)
        return command.answer.set_result((LOST, b""))

    def send_data(self, tag, transfer_tag, request):
        if tag not in self.commands:
            return  # aborted meanwhile
        offset, length = struct.unpack_from(">2I", request, 40)
        header = bytearray(48)
        header[0:2] = bytes((DATA_OUT, 0x80))
        header[9] = self.storm.lun
        struct.pack_into(">2I", header, 16, tag, transfer_tag)
        struct.pack_into(">I", header, 28, self.status_number)
        struct.pack_into(">I", header, 40, offset)
        self.put(header, self.commands[tag].data[offset:offset + length])


async def read_pdu(reader):
    header = await reader.readexactly(48)
    length = int.from_bytes(header[5:8], "big")
    data = await reader.readexactly((length + 3) // 4 * 4) if length else b""
    return header, data[:length]


class Slot:
    """Blocks of one session, and what they may hold."""

    def __init__(self, session, number):
        self.session = session
        self.storm = session.storm
        self.first = (session.number * SLOTS + number) * SLOT_BLOCKS
        self.version = 0  # of the last write
        self.held = [{0} for _ in range(SLOT_BLOCKS)]  # versions that a block may hold

    def stamp(self, block, version):
        if version == 0:
            return bytes(BLOCK)
        return struct.pack(">4sIII", b"stor", self.first + block, version, 0) * (BLOCK // 16)

    def cdb(self, opcode, block, count, force=False):
        return struct.pack(">BBIBHB", opcode, 8 if force else 0, self.first + block, 0, count, 0)

    async def write(self, abort, whole=False):
        chance = self.storm.random
        begin = 0 if whole else chance.randrange(SLOT_BLOCKS)
        end = SLOT_BLOCKS if whole else chance.randrange(begin, SLOT_BLOCKS) + 1
        self.version += 1
        data = b"".join(self.stamp(block, self.version) for block in range(begin, end))
        for block in range(begin, end):
            self.held[block].add(self.version)
        tag, command = await self.session.send(
            self.cdb(0x2A, begin, end - begin, chance.random() < 0.2), data,
            immediate=chance.random() < 0.8)
        if abort:
            await asyncio.wait([command.answer], timeout=chance.uniform(0, self.storm.patience))
            if not command.answer.done():
                await self.abort(tag, command)
        answer, _ = await command.answer
        if answer == GOOD:
            self.storm.acknowledged += 1
            for block in range(begin, end):
                self.held[block] = {self.version}
        return answer

    async def abort(self, tag, command):
        def answered(response, _):
            if command.answer.done():
                return
            # Of a reset by another nobody has told us yet.
            was_reset = self.storm.resetting > 0 or self.storm.resets > command.resets
            expect(response == COMPLETE or (response == NO_SUCH_TASK and was_reset),
                   "a command that was not answered is not there")
            self.storm.aborted += response == COMPLETE
            self.session.lose(lambda other, _: other == tag)
        await self.session.manage(ABORT_TASK, tag, answered)

    async def compare(self):
        _, command = await self.session.send(
            self.cdb(0x28, 0, SLOT_BLOCKS), read=SLOT_BLOCKS * BLOCK)
        answer, data = await command.answer
        if answer != GOOD:
            return
        expect(len(data) == SLOT_BLOCKS * BLOCK, "a read was cut short")
        for block, versions in enumerate(self.held):
            found = data[block * BLOCK:(block + 1) * BLOCK]
            if all(found != self.stamp(block, version) for version in versions):
                raise Wrong(f"block {self.first + block} is not what was acknowledged last: "
                            f"{found[:16].hex()}, not of {sorted(versions)}")

    async def live(self, writes):
        chance = self.storm.random
        for _ in range(writes):
            await self.write(abort=chance.random() < 0.6)
            if chance.random() < 0.3:
                await self.compare()

    async def end(self):
        await self.write(abort=True, whole=True)
        while await self.write(abort=False, whole=True) != GOOD:
            pass


class Storm:
    def __init__(self, options):
        url = urllib.parse.urlsplit(options.url)
        self.portal = (url.hostname, url.port)
        self.target, lun = url.path.strip("/").split("/")
        self.lun = int(lun)
        self.options = options
        self.random = random.Random(options.seed)
        self.patience = 0.03  # seconds until an abort, at most
        self.resets = self.resetting = self.drops = self.aborted = self.acknowledged = 0
        self.failure = asyncio.get_running_loop().create_future()

    def fail(self, wrong):
        if not self.failure.done():
            self.failure.set_exception(wrong)

    async def disturb(self, session):
        """Resets, and sessions that are dropped."""
        def answered(response, before):
            expect(response == COMPLETE, "the unit was not reset")
            session.lose(lambda _, command: command.number < before)

        while True:
            await asyncio.sleep(self.random.uniform(0.2, 1))
            if self.random.random() < 0.5:
                self.drops += 1
                await session.drop(self.random.random() < 0.5)
                continue
            self.resetting += 1
            await session.manage(LUN_RESET, NO_TAG, answered)
            self.resetting -= 1
            self.resets += 1

    async def look(self, session):
        """Sends what learns of a reset, if nothing else is to be sent."""
        while True:
            await asyncio.sleep(0.02)
            _, command = await session.send(bytes(6))
            await asyncio.shield(command.answer)  # it comes when nobody looks any more, too

    async def guarded(self, *tasks, until):
        """Until `until` is over; what the others raise ends all."""
        tasks = [asyncio.create_task(task) for task in tasks]
        goal = asyncio.create_task(until)
        try:
            pending = {goal, self.failure, *tasks}
            while not goal.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in (goal, *tasks):
                task.cancel()

    async def run(self):
        sessions = [Session(self, number) for number in range(self.options.sessions)]
        for session in sessions:
            await session.connect()
        slots = [Slot(session, number) for session in sessions for number in range(SLOTS)]
        looks = [self.look(session) for session in sessions]
        await self.guarded(
            *looks, *(self.disturb(session) for session in sessions),
            until=all_of(slot.live(self.options.writes) for slot in slots))
        for session in sessions:  # some may be in the middle of a login
            if not session.there.is_set():
                await session.connect()
        self.resetting += 1  # of the last ones not everybody has been told
        looks = [self.look(session) for session in sessions]
        await self.guarded(*looks, until=all_of(slot.end() for slot in slots))
        await self.guarded(until=all_of(slot.compare() for slot in slots))
        with open(self.options.save, "r+b") as file:
            for slot in slots:
                file.seek(slot.first * BLOCK)
                file.write(b"".join(slot.stamp(block, slot.version)
                                    for block in range(SLOT_BLOCKS)))
        print(f"{self.acknowledged} writes acknowledged, {self.aborted} aborted, "
              f"{self.resets} resets, {self.drops} sessions dropped")
        expect(self.aborted > 0 and self.resets > 0 and self.drops > 0, "there was no storm")


async def all_of(tasks):
    await asyncio.gather(*tasks)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--save", required=True)
    parser.add_argument("--writes", type=int, default=30)
    parser.add_argument("--sessions", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    try:
        await Storm(parser.parse_args()).run()
    except Wrong as wrong:
        print(f"iscsi_storm: {wrong}", file=sys.stderr, flush=True)
        os._exit(1)


asyncio.run(main())
