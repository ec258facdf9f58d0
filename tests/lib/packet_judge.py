"""packet_judge.py INTERFACE ADDRESS COUNT SEED [end]: sends packets to the test guest's card, which
is behind the interface. Each must come back, whole and in order. "end": then tells the guest
that these were all."""
import random, socket, struct, sys
interface, address, count, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
guest = bytes.fromhex(address.replace(':', ''))
here = bytes.fromhex('525400000001')
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
s.bind((interface, 0x88b5))
s.settimeout(120)
chance = random.Random(seed)
sent = []
def come_back():
    want = sent.pop(0)
    while True:
        data, origin = s.recvfrom(4096)
        if origin[2] != socket.PACKET_OUTGOING:
            break
    if data != here + guest + want[12:]:
        sys.exit(f'another packet came back: {len(data)} bytes, expected {len(want)}')
for i in range(count):
    payload = struct.pack('<I', i) + chance.randbytes(chance.randrange(42, 1497))
    packet = guest + here + b'\x88\xb5' + payload
    s.send(packet)
    sent.append(packet)
    if len(sent) == 8:
        come_back()
while sent:
    come_back()
if 'end' in sys.argv[5:]:
    s.send(guest + here + b'\x88\xb6' + bytes(46))
print('the same', count)
